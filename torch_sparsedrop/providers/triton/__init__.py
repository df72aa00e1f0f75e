"""NVIDIA GPUs from compute capability 8.0: Triton kernels, imported at the first call on such a device."""

from __future__ import annotations

import torch

from ..cuda.device import DTYPES, why_not
from ..status import Status

__all__ = ["NAME", "status", "why_not"]

NAME = "triton"


def status(device: torch.device, dtype: torch.dtype) -> Status | None:
    """Three dtypes on NVIDIA GPUs from Ampere on, where Triton is installed."""
    if device.type != "cuda":
        return None
    reason = why_not(torch.cuda.current_device() if device.index is None else device.index)
    if reason is None and dtype not in DTYPES:
        reason = f"no kernels for {str(dtype).removeprefix('torch.')}"
    return Status(True, "Triton kernels") if reason is None else Status(False, reason)

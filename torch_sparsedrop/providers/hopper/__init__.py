"""NVIDIA Hopper: a hand-written kernel from ``csrc/cuda``, compiled at first use by the NVRTC that PyTorch brings."""

from __future__ import annotations

import torch

from ..cache import cache_folder
from ..cuda import device as devices
from ..status import Status
from . import kernel, nvrtc

__all__ = ["NAME", "status"]

NAME = "hopper"


def status(device: torch.device, dtype: torch.dtype) -> Status | None:
    """16-bit floats on compute capability 9.0; small, thin or unaligned problems go to the next provider."""
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    reason = kernel.why_not(devices.capability(device), dtype) or devices.why_not(index)
    if reason is not None:
        return Status(False, reason)
    return Status(
        True,
        f"TMA and wgmma kernels, NVRTC {nvrtc.version()}, kept in {cache_folder()}; small problems by triton",
    )

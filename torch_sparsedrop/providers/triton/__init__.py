"""NVIDIA GPUs from compute capability 8.0: Triton kernels, imported at the first call on such a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ops.schema import library
from .. import reference
from ..status import Status
from .device import DTYPES, why_not

__all__ = ["NAME", "status", "why_not"]

NAME = "triton"

_OPS = ("plan", "draw", "linear", "weight_grad")
_kernels: dict[str, Callable[..., Any]] = {}


def status(device: torch.device, dtype: torch.dtype) -> Status | None:
    """Three dtypes on NVIDIA GPUs from Ampere on, where Triton is installed."""
    if device.type != "cuda":
        return None
    reason = why_not(torch.cuda.current_device() if device.index is None else device.index)
    if reason is None and dtype not in DTYPES:
        reason = f"no kernels for {str(dtype).removeprefix('torch.')}"
    return Status(True, "Triton kernels") if reason is None else Status(False, reason)


def _load() -> None:
    from .matmul import linear, weight_grad
    from .plan import draw, plan

    _kernels.update(plan=plan, draw=draw, linear=linear, weight_grad=weight_grad)


def _serve(name: str) -> Callable[..., Any]:
    fallback = getattr(reference, name)

    def serve(first: Tensor, *rest: Any) -> Any:
        index = first.device.index
        if why_not(index) is not None:
            return fallback(first, *rest)
        if not _kernels:
            _load()
        # Triton launches on the current device.
        if index == torch.cuda.current_device():
            return _kernels[name](first, *rest)
        with torch.cuda.device(index):
            return _kernels[name](first, *rest)

    return serve


for _name in _OPS:
    library.impl(_name, _serve(_name), "CUDA")

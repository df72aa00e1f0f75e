"""What a call on an NVIDIA GPU runs: the Hopper kernel where it serves and wins, Triton's elsewhere.

To compare them, SPARSEDROP_GPU=triton leaves the Hopper kernel out and SPARSEDROP_GPU=hopper takes it at
any size; it is read when a shape is first seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ops.schema import library
from .. import reference
from .device import why_not

_OPS = ("plan", "draw", "linear", "weight_grad")
_kernels: dict[str, Callable[..., Any]] = {}


def _load() -> None:
    from ..triton.plan import draw, plan
    from .matmul import linear, weight_grad

    _kernels.update(plan=plan, draw=draw, linear=linear, weight_grad=weight_grad)


def _serve(name: str) -> Callable[..., Any]:
    fallback = getattr(reference, name)

    def serve(first: Tensor, *rest: Any) -> Any:
        index = first.device.index
        if why_not(index) is not None:
            return fallback(first, *rest)
        if not _kernels:
            _load()
        # Kernels start on the current device.
        if index == torch.cuda.current_device():
            return _kernels[name](first, *rest)
        with torch.cuda.device(index):
            return _kernels[name](first, *rest)

    return serve


for _name in _OPS:
    library.impl(_name, _serve(_name), "CUDA")

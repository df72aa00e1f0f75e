"""What a call on an NVIDIA GPU runs: the Hopper kernel where it serves and wins, Triton's elsewhere.

Python serves the first call of each kind, the native part those like it. Without the native part Python serves all.
To compare the kernels, SPARSEDROP_GPU=triton leaves the Hopper kernel out and SPARSEDROP_GPU=hopper takes it at
any size; it is read when a shape is first seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ops.schema import library
from .. import reference
from .device import tf32, why_not
from .ready import NATIVE, Ready, failed, packed

# A kernel's results, and how the native part would start it.
Served = tuple[tuple[Tensor, ...], Ready | None]
_kernels: dict[str, Callable[..., Served]] = {}


def _load() -> None:
    from ..triton.activate import serve_activate, serve_activate_grad
    from ..triton.plan import serve_draw, serve_plan
    from .matmul import serve_linear, serve_weight_grad

    _kernels.update(plan=serve_plan, draw=serve_draw, linear=serve_linear, weight_grad=serve_weight_grad)
    _kernels.update(activate=serve_activate, activate_grad=serve_activate_grad)


def _serve(name: str, first: Tensor, *rest: Any) -> Served:
    index = first.device.index
    if why_not(index) is not None:
        result = getattr(reference, name)(first, *rest)
        return result if isinstance(result, tuple) else (result,), None
    if not _kernels:
        _load()
    # Kernels start on the current device.
    if index == torch.cuda.current_device():
        return _kernels[name](first, *rest)
    with torch.cuda.device(index):
        return _kernels[name](first, *rest)


def _whole(name: str) -> Callable[..., Any]:
    def op(*arguments: Any) -> Any:
        results, _ = _serve(name, *arguments)
        return results if len(results) > 1 else results[0]

    return op


def _first(name: str) -> Callable[..., list[Tensor]]:
    def op(*arguments: Any) -> list[Tensor]:
        try:
            results, ready = _serve(name, *arguments)
        except Exception as error:
            return failed(error)
        return [*results, packed(ready)]

    return op


def _first_draw(uniform: Tensor, p: Tensor | None, number: float, *rest: Any) -> list[Tensor]:
    return _first("draw")(uniform, number if p is None else p, *rest)


library.impl("plan", _whole("plan"), "CUDA")
library.impl("tf32", tf32, "CompositeExplicitAutograd")
for _name in ("draw", "linear", "weight_grad", "activate", "activate_grad"):
    if NATIVE:
        library.impl(f"first_{_name}", _first_draw if _name == "draw" else _first(_name), "CUDA")
    else:
        library.impl(_name, _whole(_name), "CUDA")

"""Autocast as `torch.nn.functional.linear` does it: operands are cast, plans and scales are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .schema import library

# Asked once: Dynamo in torch 2.11 cannot trace the question.
_DEVICES = {device for device in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(device)}


def cast_operands(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the active autocast dtype; float64 stays, as it does for PyTorch's own ops."""
    # One quick question; Dynamo knows the answer anyway, and cannot trace it.
    if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
        return x, weight, bias
    device = x.device.type
    if device not in _DEVICES or not torch.is_autocast_enabled(device):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return _cast(x, dtype), _cast(weight, dtype), None if bias is None else _cast(bias, dtype)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if eligible else tensor


def _register(device: str) -> None:
    key = f"Autocast{device}"
    exclude = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = cast_operands(x, weight, bias)
        with torch._C._ExcludeDispatchKeyGuard(exclude):
            return torch.ops.sparsedrop.linear.default(x, weight, bias, *rest)

    library.impl("linear", linear, key)


for _device in ("CPU", "CUDA"):
    _register(_device)

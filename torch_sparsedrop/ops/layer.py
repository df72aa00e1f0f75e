"""A dropout beside a linear layer as one op, which draws its mask itself: eager calls cost less so.

Only where nothing has to see the parts: in a graph, an op that draws would be merged with its equal twin. The random
numbers are those that the parts would draw.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .autocast import cast_operands
from .autograd import linear, linear_backward, save, weight_grad
from .schema import library

_PLAIN = (Tensor, torch.nn.Parameter)
_OP = torch.ops.sparsedrop.layer.default._op  # what calling the overload ends in


class Refused(Exception):
    """The op did not accept its arguments, or had no memory."""


# The only callers differentiate it themselves.
for _key in ("AutogradCPU", "AutogradCUDA"):
    library.impl("layer", torch.library.fallthrough_kernel, _key)


@functools.cache
def _built() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("sparsedrop::layer", "CPU")


def serves(x: Tensor, weight: Tensor, bias: Tensor | None, p: Tensor | float) -> bool:
    """Whether these are ordinary tensors, and nothing watches or transforms the ops called on them."""
    return (
        _built()
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and (bias is None or type(bias) in _PLAIN)
        and (p.dtype is torch.float32 and type(p) in _PLAIN if isinstance(p, Tensor) else True)
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )


def _drawn(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Y, and its mask's plan and scale."""
    try:
        made: tuple[Tensor, Tensor, Tensor] = _OP(*arguments)
        return made
    except Exception as error:
        raise Refused from error


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rest: tuple[Any, ...]) -> Tensor:
        y, plan, scale = _drawn(x, weight, bias, *rest)
        out, block = rest[-2:]
        save(ctx, x, weight, (None, None, (), plan, scale, block) if out else (plan, scale, block, None, None, ()))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *linear_backward(linear, weight_grad, ctx, grad)[:3], None


# What Function.apply ends in. On its way there it inspects forward's signature: 10 µs a call.
_apply = super(torch.autograd.Function, _Layer).apply


def layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, p: Tensor | float, balanced: bool, out: bool, block: tuple[int, int]
) -> Tensor:
    """`dropout_linear`, or if ``out`` `linear_dropout`, where `serves` says so."""
    x, weight, bias = cast_operands(x, weight, bias)
    rest = (p, 0.0, balanced, out, block) if isinstance(p, Tensor) else (None, p, balanced, out, block)
    if torch.is_grad_enabled():
        return _apply(x, weight, bias, rest)
    return _drawn(x, weight, bias, *rest)[0]

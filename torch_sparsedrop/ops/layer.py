"""A dropout beside a linear layer as one op, `draw` and `linear`: eager calls cost less so.

Only where nothing has to see the parts. They alone have what graphs, transforms and dispatch modes ask for: a rule for
each (vmap, autocast, FLOPs), and a mask that others can share.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .autocast import cast_operands
from .autograd import Masks, linear, linear_backward, save, weight_grad
from .schema import REVISION, library

_PLAIN = (Tensor, torch.nn.Parameter)
_OP = torch.ops.sparsedrop.layer.default._op  # what calling the overload ends in


class Refused(Exception):
    """The op did not accept its arguments, or had no memory."""

    @property
    def reason(self) -> tuple[type, str]:
        """To be kept in the exception's place, whose traceback holds every tensor on its way."""
        return type(self.__cause__), repr(self.__cause__)


_told: set[type] = set()


def tell(kind: type, reason: str) -> None:
    """Once for each kind of reason: the parts served what the op did not."""
    # Where a device has no such op, its kernels tell who serves.
    if issubclass(kind, NotImplementedError) or kind in _told:
        return
    _told.add(kind)
    warnings.warn(
        "torch_sparsedrop: a dropout and its linear layer ran as two ops, which costs the host more, for one op "
        f"refused them: {reason}",
        stacklevel=4,
    )


@functools.cache
def _built() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("sparsedrop::layer", "CPU")


def serves(x: Tensor, weight: Tensor, bias: Tensor | None, p: Tensor | float) -> bool:
    """Whether these are ordinary tensors, weight a matrix, and nothing watches or transforms the ops called on them."""
    return (
        _built()
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and weight.dim() == 2
        and not x.is_nested
        and (bias is None or type(bias) in _PLAIN)
        and (p.dtype is torch.float32 and type(p) in _PLAIN if isinstance(p, Tensor) else True)
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )


def _drawn(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Y, and its mask's plan and scale."""
    try:
        with torch._C._AutoDispatchBelowAutograd():  # the caller differentiates, at less cost
            made: tuple[Tensor, Tensor, Tensor] = _OP(*arguments)
        return made
    except Exception as error:
        raise Refused from error


def _masks(plan: Tensor, scale: Tensor, out: bool, block: tuple[int, int], revision: int) -> Masks:
    mask, none = (plan, scale, block), (None, None, ())
    return none + mask if out else mask + none


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, plan, scale = output
    ctx.mark_non_differentiable(plan, scale)
    save(ctx, inputs[0], inputs[1], _masks(plan, scale, *inputs[-3:]))


torch.library.register_autograd(
    "sparsedrop::layer",
    lambda ctx, grad, *_: linear_backward(torch.ops.sparsedrop.linear, torch.ops.sparsedrop.weight_grad, ctx, grad),
    setup_context=_setup,
    lib=library,
)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rest: tuple[Any, ...]) -> Tensor:
        y, plan, scale = _drawn(x, weight, bias, *rest)
        save(ctx, x, weight, _masks(plan, scale, *rest[-3:]))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *linear_backward(linear, weight_grad, ctx, grad)[:3], None


# What Function.apply ends in. On its way there it inspects forward's signature: 10 µs a call.
_apply = super(torch.autograd.Function, _Layer).apply


def layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, uniform: Tensor, p: Tensor | float,
    balanced: bool, out: bool, block: tuple[int, int],
) -> Tensor:  # fmt: skip
    """`dropout_linear`, or if ``out`` `linear_dropout`, where `serves` says so."""
    x, weight, bias = cast_operands(x, weight, bias)
    tensor, number = (p, 0.0) if isinstance(p, Tensor) else (None, p)
    rest = uniform, tensor, number, balanced, out, block, REVISION
    if torch.is_grad_enabled():
        return _apply(x, weight, bias, rest)
    return _drawn(x, weight, bias, *rest)[0]

"""The derivatives, written once and reached in two ways.

    dX = s · M_in ⊙ ((M_out ⊙ dY) W)             `linear` with the masks exchanged
    dW = s · (M_out ⊙ dY)ᵀ (M_in ⊙ X)            `weight_grad`
    db = s_out · Σ_rows (M_out ⊙ dY)             `weight_grad` against a column of ones, or without M_out a sum

with s = s_in · s_out. The derivatives of `weight_grad` are `linear` again, so gradients of any order
follow. `linear` and `weight_grad` here are the entrance from Python (cheap in eager mode, right under
`torch.func`); the overloads in ``torch.ops`` are what a graph pass inserts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .schema import REVISION, library

Masks = tuple[Any, ...]
"""plan, scale and block of the input mask, then of the output mask."""


def _save(ctx: Any, first: Tensor, second: Tensor, masks: Masks) -> None:
    """Each operand is kept only for the other one's gradient."""
    plan_in, scale_in, ctx.block_in, plan_out, scale_out, ctx.block_out = masks
    needs_first, needs_second = ctx.needs_input_grad[:2]
    ctx.save_for_backward(
        first if needs_second else None,
        second if needs_first else None,
        plan_in,
        scale_in,
        plan_out,
        scale_out,
    )


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Masks, Masks]:
    """Both operands, the masks and the masks exchanged."""
    first, second, plan_in, scale_in, plan_out, scale_out = ctx.saved_tensors
    into, out = (plan_in, scale_in, ctx.block_in), (plan_out, scale_out, ctx.block_out)
    return first, second, into + out, out + into


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _bias, *masks, _revision = inputs
    # A weight stored as (K, N) and passed as its transpose wants its gradient in that layout.
    ctx.transposed = weight.stride(0) == 1 and weight.stride(1) > 1
    _save(ctx, x, weight, tuple(masks))


def _linear_backward(linear: Callable[..., Tensor], weight_grad: Callable[..., Tensor], ctx: Any, grad: Tensor) -> Any:
    x, weight, masks, exchanged = _saved(ctx)
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    dx = dw = db = None
    if needs_x:
        dx = linear(grad, weight.t(), None, *exchanged, REVISION)
    if needs_weight and ctx.transposed:
        dw = weight_grad(x, grad, *exchanged, REVISION).t()
    elif needs_weight:
        dw = weight_grad(grad, x, *masks, REVISION)
    if needs_bias and masks[3] is None:
        db = grad.sum(tuple(range(grad.dim() - 1))) if grad.dim() > 1 else grad
    elif needs_bias:
        ones = grad.new_ones(()).expand(*grad.shape[:-1], 1)
        db = weight_grad(grad, ones, None, None, [], *masks[3:], REVISION).squeeze(1)
    return dx, dw, db, *[None] * 7


def _weight_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, *masks, _revision = inputs
    _save(ctx, grad, x, tuple(masks))


def _weight_grad_backward(linear: Callable[..., Tensor], ctx: Any, cotangent: Tensor) -> Any:
    grad, x, masks, exchanged = _saved(ctx)
    needs_grad, needs_x = ctx.needs_input_grad[:2]
    dgrad = linear(x, cotangent, None, *masks, REVISION) if needs_grad else None
    dx = linear(grad, cotangent.t(), None, *exchanged, REVISION) if needs_x else None
    return dgrad, dx, *[None] * 7


def _no_forward_mode(ctx: Any, *tangents: Any) -> Any:
    raise NotImplementedError(
        "torch_sparsedrop has no forward-mode derivatives; use reverse mode (backward, torch.func.grad, vjp, jacrev)"
    )


def _below_autograd(op: Any, args: tuple[Any, ...]) -> Tensor:
    """The kernel itself: the caller differentiates, and going through the overload's own rule costs 10 µs."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def _entrance(op: Any, setup: Callable[..., None], differentiate: Callable[..., Any]) -> Callable[..., Tensor]:
    """The differentiable op, by the cheapest way that is right where it is called."""

    class Transformed(torch.autograd.Function):
        """What `torch.func` can see through."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Tensor:
            return _below_autograd(op, args)

        setup_context = staticmethod(setup)
        backward = staticmethod(differentiate)
        jvp = staticmethod(_no_forward_mode)

    class Eager(torch.autograd.Function):
        """The same in one step, which is quicker."""

        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            output = _below_autograd(op, args)
            setup(ctx, args, output)
            return output

        backward = staticmethod(differentiate)
        jvp = staticmethod(_no_forward_mode)

    # What Function.apply ends in. On its way there it inspects forward's signature: 10 µs a call.
    apply = super(torch.autograd.Function, Eager).apply

    # Dynamo cannot trace a Function under a transform; AOTAutograd sees through this call.
    @torch.compiler.allow_in_graph
    def transformed(*args: Any) -> Tensor:
        return Transformed.apply(*args)

    def call(*args: Any) -> Tensor:
        if torch._C._are_functorch_transforms_active():
            return transformed(*args)
        if torch.compiler.is_compiling():
            # Free there, and compile caches refuse graphs that hold an autograd.Function.
            return op(*args)
        # no_grad does not switch off forward mode, which would lose its tangents in the kernel.
        return apply(*args) if torch.is_grad_enabled() or forward_ad._current_level >= 0 else _below_autograd(op, args)

    return call


linear: Callable[..., Tensor] = _entrance(
    torch.ops.sparsedrop.linear.default,
    _linear_setup,
    lambda ctx, grad: _linear_backward(linear, weight_grad, ctx, grad),
)
weight_grad: Callable[..., Tensor] = _entrance(
    torch.ops.sparsedrop.weight_grad.default,
    _weight_grad_setup,
    lambda ctx, cotangent: _weight_grad_backward(linear, ctx, cotangent),
)

torch.library.register_autograd(
    "sparsedrop::linear",
    lambda ctx, grad: _linear_backward(torch.ops.sparsedrop.linear, torch.ops.sparsedrop.weight_grad, ctx, grad),
    setup_context=_linear_setup,
    lib=library,
)
torch.library.register_autograd(
    "sparsedrop::weight_grad",
    lambda ctx, cotangent: _weight_grad_backward(torch.ops.sparsedrop.linear, ctx, cotangent),
    setup_context=_weight_grad_setup,
    lib=library,
)

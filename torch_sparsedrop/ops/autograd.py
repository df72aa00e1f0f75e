"""The derivatives, written once and reached in two ways.

    dX = s · M_in ⊙ ((M_out ⊙ dY) W)             `linear` with the masks exchanged
    dW = s · (M_out ⊙ dY)ᵀ (M_in ⊙ X)            `weight_grad`
    db = s_out · Σ_rows (M_out ⊙ dY)             `weight_grad` without x; without M_out PyTorch's sum, but on a GPU
    M ⊙ f(x + b)                                 `activate_grad`; in plain PyTorch where that is to be derived again

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

from .functions import RELU
from .schema import REVISION, library

Masks = tuple[Any, ...]
"""plan, scale and block of the input mask, then of the output mask."""


def save(ctx: Any, first: Tensor, second: Tensor | None, masks: Masks) -> None:
    """Each operand is kept only for the other one's gradient."""
    plan_in, scale_in, block_in, plan_out, scale_out, block_out = masks
    needs = ctx.needs_input_grad
    ctx.blocks = block_in, block_out
    if second is None:
        ctx.leading = first.shape[:-1]
    else:
        ctx.leading, ctx.strides = None, second.stride()
    kept = first if needs[1] else None, second if needs[0] else None
    ctx.save_for_backward(*kept, plan_in, scale_in, plan_out, scale_out)


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Masks, Masks]:
    """Both operands, the masks and the masks exchanged."""
    first, second, plan_in, scale_in, plan_out, scale_out = ctx.saved_tensors
    into, out = (plan_in, scale_in, ctx.blocks[0]), (plan_out, scale_out, ctx.blocks[1])
    return first, second, into + out, out + into


def _setup(masks_at: int) -> Callable[..., None]:
    """What an op keeps whose masks begin at that argument."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        save(ctx, inputs[0], inputs[1], inputs[masks_at : masks_at + 6])

    return setup


def linear_backward(linear: Callable[..., Tensor], weight_grad: Callable[..., Tensor], ctx: Any, grad: Tensor) -> Any:
    x, weight, masks, exchanged = _saved(ctx)
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    dx = dw = db = None
    if needs_x:
        dx = linear(grad, weight.t(), None, *exchanged, REVISION)
    # A weight stored as (K, N) and passed as its transpose wants its gradient in that layout.
    if needs_weight and ctx.strides[0] == 1 and ctx.strides[1] > 1:
        dw = weight_grad(x, grad, *exchanged, REVISION).t()
    elif needs_weight:
        dw = weight_grad(grad, x, *masks, REVISION)
    if needs_bias and masks[3] is None and not _sums(grad):
        db = grad.sum(tuple(range(grad.dim() - 1))) if grad.dim() > 1 else grad
    elif needs_bias:
        db = weight_grad(grad, None, None, None, [], *masks[3:], REVISION).squeeze(1)
    return dx, dw, db, *[None] * 7


# Of more rows than these, sums were measured for as many columns or more only: fewer would leave most of a GPU idle.
_MEASURED_ROWS, _MANY_COLUMNS = 32768, 512


def _sums(grad: Tensor) -> bool:
    """Whether our kernel sums rows where nothing is masked, since it is faster than PyTorch's on a GPU.

    A graph and `torch.func` are better off with PyTorch's sum: the compiler fuses it, and vmap makes it one for all.
    """
    if not grad.is_cuda or type(grad) is not Tensor or torch._C._are_functorch_transforms_active():
        return False
    from ..providers.cuda import device as devices

    fits = grad.dim() > 1 and grad.numel() > 0 and grad.is_contiguous() and grad.dtype in devices.DTYPES
    columns = grad.shape[-1] if fits else 0
    many = columns >= _MANY_COLUMNS or grad.numel() <= _MEASURED_ROWS * columns
    return fits and many and devices.why_not(grad.device.index) is None


def _weight_grad_backward(linear: Callable[..., Tensor], ctx: Any, cotangent: Tensor) -> Any:
    grad, x, masks, exchanged = _saved(ctx)
    needs_grad, needs_x = ctx.needs_input_grad[:2]
    if needs_grad and ctx.leading is not None:
        x = cotangent.new_ones(()).expand(*ctx.leading, 1)
    dgrad = linear(x, cotangent, None, *masks, REVISION) if needs_grad else None
    dx = linear(grad, cotangent.t(), None, *exchanged, REVISION) if needs_x else None
    return dgrad, dx, *[None] * 7


def _no_forward_mode(ctx: Any, *tangents: Any) -> Any:
    raise NotImplementedError(
        "torch_sparsedrop has no forward-mode derivatives; use reverse mode (backward, torch.func.grad, vjp, jacrev)"
    )


def _below_autograd(op: Any, args: tuple[Any, ...]) -> Tensor:
    """The kernel itself: the caller differentiates, and going through the overload's own rule costs 10 µs."""
    try:
        with torch._C._AutoDispatchBelowAutograd():
            return op._op(*args)  # what calling the overload ends in
    except RuntimeError as error:
        # Errors come out of compiled kernels with their text, but not with their type.
        if type(error) is RuntimeError and str(error).startswith("CUDA out of memory"):
            raise torch.OutOfMemoryError(str(error)) from error
        raise


def _entrance(op: Any, masks_at: int, differentiate: Callable[..., Any]) -> Callable[..., Tensor]:
    """The differentiable op, by the cheapest way that is right where it is called."""

    class Transformed(torch.autograd.Function):
        """What `torch.func` can see through."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Tensor:
            return _below_autograd(op, args)

        setup_context = staticmethod(_setup(masks_at))
        backward = staticmethod(differentiate)
        jvp = staticmethod(_no_forward_mode)

    class Eager(torch.autograd.Function):
        """The same in one step, and with what has no gradient in one argument, which is quicker."""

        @staticmethod
        def forward(ctx: Any, first: Tensor, second: Tensor | None, third: Any, rest: tuple[Any, ...]) -> Tensor:
            output = _below_autograd(op, (first, second, third, *rest))
            save(ctx, first, second, rest[:6] if masks_at == 3 else (third, *rest[:5]))
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            return *differentiate(ctx, grad)[:3], None

        jvp = staticmethod(_no_forward_mode)

    # What Function.apply ends in. On its way there it inspects forward's signature: 10 µs a call.
    apply = super(torch.autograd.Function, Eager).apply

    # Dynamo cannot trace a Function under a transform; AOTAutograd sees through this call.
    @torch.compiler.allow_in_graph
    def transformed(*args: Any) -> Tensor:
        return Transformed.apply(*args)

    def call(first: Tensor, second: Tensor | None, third: Any, *rest: Any) -> Tensor:
        if torch._C._are_functorch_transforms_active():
            return transformed(first, second, third, *rest)
        if torch.compiler.is_compiling():
            # Free there, and compile caches refuse graphs that hold an autograd.Function.
            return op(first, second, third, *rest)
        # no_grad does not switch off forward mode, which would lose its tangents in the kernel.
        if torch.is_grad_enabled() or forward_ad._current_level >= 0:
            return apply(first, second, third, rest)
        return _below_autograd(op, (first, second, third, *rest))

    return call


linear: Callable[..., Tensor] = _entrance(
    torch.ops.sparsedrop.linear.default,
    3,
    lambda ctx, grad: linear_backward(linear, weight_grad, ctx, grad),
)
weight_grad: Callable[..., Tensor] = _entrance(
    torch.ops.sparsedrop.weight_grad.default,
    2,
    lambda ctx, cotangent: _weight_grad_backward(linear, ctx, cotangent),
)

torch.library.register_autograd(
    "sparsedrop::linear",
    lambda ctx, grad: linear_backward(torch.ops.sparsedrop.linear, torch.ops.sparsedrop.weight_grad, ctx, grad),
    setup_context=_setup(3),
    lib=library,
)
torch.library.register_autograd(
    "sparsedrop::weight_grad",
    lambda ctx, cotangent: _weight_grad_backward(torch.ops.sparsedrop.linear, ctx, cotangent),
    setup_context=_setup(2),
    lib=library,
)


def _activate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, ctx.function, plan, ctx.block, _revision = inputs
    # The next linear keeps the result anyway, so that x need not be kept where the result will do.
    ctx.save_for_backward(output if ctx.function == RELU else x, bias, plan)


def _activate_backward(ctx: Any, grad: Tensor) -> Any:
    from ..providers import reference

    source, bias, plan = ctx.saved_tensors
    gradient = reference.activate_grad if torch.is_grad_enabled() else torch.ops.sparsedrop.activate_grad
    dx, db = gradient(grad, source, bias, ctx.function, plan, ctx.block, REVISION)
    return dx, None if bias is None else db, None, None, None, None


def _no_derivative(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError("torch_sparsedrop: sparsedrop::activate_grad has no derivatives")


torch.library.register_autograd("sparsedrop::activate", _activate_backward, setup_context=_activate_setup, lib=library)
torch.library.register_autograd("sparsedrop::activate_grad", _no_derivative, lib=library)

"""`sparsedrop::linear` and `sparsedrop::weight_grad` in the kernel's terms."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops.checks import check_linear, check_masks, check_weight_grad, grid_of
from .. import reference
from ..hopper import launch as hopper
from ..triton import column
from ..triton import launch as triton
from . import device as devices
from .problem import Mask, Operand, Spec
from .ready import NATIVE, Ready, tell

# Launches by all that they and the arguments' checks depend on; repeated calls look up nothing else.
_known: dict[Any, Any] = {}
_MOST_KNOWN = 4096


def linear(*arguments: Any) -> Tensor:
    (y,), _ = serve_linear(*arguments)
    return y


def serve_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int], revision: int,
) -> tuple[tuple[Tensor], Ready | None]:  # fmt: skip
    """The masked product: a = rows, b = outputs, t = inputs."""
    if x.dtype not in devices.DTYPES:
        y = reference.linear(x, weight, bias, plan_in, scale_in, block_in, plan_out, scale_out, block_out, revision)
        return (y,), None
    masks = plan_in, scale_in, block_in, plan_out, scale_out, block_out
    key = _key("linear", masks, x, weight, bias)
    launch = _known.get(key) or _remember(key, _product(x, weight, bias, *masks))
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    if y.numel() == 0:
        return (y,), None
    given = x, weight, y, bias, scale_in, scale_out, plan_in, None, plan_out
    return (y,), _start(launch, given)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, *masks: Any) -> Spec:
    m, n, k = check_linear(x, weight, bias)
    check_masks(m, n, k, x, *masks)
    plan_in, _, block_in, plan_out, _, block_out = masks
    into, out = _mask(plan_in, block_in, m, k), _mask(plan_out, block_out, m, n)
    return Spec(
        *_common(x), _operand(_flat(x), 0), _operand(weight, 0), Operand(m, n, n, 1), into, None, out, False
    )  # fmt: skip


def weight_grad(*arguments: Any) -> Tensor:
    (dw,), _ = serve_weight_grad(*arguments)
    return dw


def serve_weight_grad(
    grad: Tensor, x: Tensor | None,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int], revision: int,
) -> tuple[tuple[Tensor], Ready | None]:  # fmt: skip
    """The masked reduction: t = rows. The side that a mask divides, or else the longer one, is a; the other is b. No
    ``x`` is a column of ones."""
    if grad.dtype not in devices.DTYPES:
        dw = reference.weight_grad(grad, x, plan_in, scale_in, block_in, plan_out, scale_out, block_out, revision)
        return (dw,), None
    masks = plan_in, scale_in, block_in, plan_out, scale_out, block_out
    if x is None and grad.dim() > 0 and grad.stride(-1) != 1:
        # What sums rows without x reads them along memory.
        check_weight_grad(grad, x, plan_in)
        ones = grad.new_ones(()).expand(*grad.shape[:-1], 1)
        return serve_weight_grad(grad, ones, *masks, revision)[0], None
    key = _key("weight_grad", masks, grad, x, None)
    launch = _known.get(key) or _remember(key, _reduction(grad, x, *masks))
    n, k = grad.shape[-1], 1 if x is None else x.shape[-1]
    dw = grad.new_empty((n, k))
    if dw.numel() == 0:
        return (dw,), None
    if _x_is_a(n, k, plan_in, plan_out):
        return (dw,), _start(launch, (x, grad, dw, None, scale_in, scale_out, plan_in, None, None))
    return (dw,), _start(launch, (grad, x, dw, None, scale_in, scale_out, plan_out, plan_in, None))


def _reduction(grad: Tensor, x: Tensor | None, *masks: Any) -> Spec:
    plan_in, _, block_in, plan_out, _, block_out = masks
    m, n, k = check_weight_grad(grad, x, plan_in)
    check_masks(m, n, k, grad, *masks)
    of_grad, of_x = _operand(_flat(grad), 1), Operand(1, m, 0, 0) if x is None else _operand(_flat(x), 1)
    into, out = _mask(plan_in, block_in, m, k), _mask(plan_out, block_out, m, n)
    if _x_is_a(n, k, plan_in, plan_out):
        return Spec(*_common(grad), of_x, of_grad, Operand(k, n, 1, k), into, None, None, True)
    return Spec(*_common(grad), of_grad, of_x, Operand(n, k, k, 1), out, into, None, True)


def _x_is_a(n: int, k: int, plan_in: Tensor | None, plan_out: Tensor | None) -> bool:
    return plan_out is None and (plan_in is not None or k > n)


def _start(launch: Any, given: tuple[Any, ...]) -> Ready | None:
    """A launch on matrices with any leading dimensions. It can be repeated by address where nothing was copied."""
    a, b, c, bias, scale_1, scale_2, walk_a, walk_b, out = given
    sides = _flat(a), None if b is None else _flat(b), c
    used = *sides, _dense(bias), scale_1, scale_2, _dense(walk_a), _dense(walk_b), _dense(out)
    launch(*used)
    if launch.copies:
        return None
    same = all(t is None or t.data_ptr() == u.data_ptr() for t, u in zip(given, used, strict=True))
    return launch if same else None


def _key(op: str, masks: tuple[Any, ...], *operands: Tensor | None) -> tuple[Any, ...]:
    plan_in, scale_in, block_in, plan_out, scale_out, block_out = masks
    tensors = *operands, plan_in, scale_in, plan_out, scale_out
    facts = [
        None if t is None else (t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % 16 == 0) for t in tensors
    ]  # fmt: skip
    return op, *facts, *block_in, None, *block_out, tensors[0].dtype == torch.float32 and devices.tf32()


def _remember(key: Any, spec: Spec) -> Any:
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[key] = launch = _launch(spec)
    return launch


def forget() -> None:
    """Every launch, so that the next ones choose their tiles again."""
    _known.clear()
    if NATIVE:
        torch.ops.sparsedrop.forget()


def _launch(spec: Spec) -> Any:
    """The fastest kernel that serves a problem, ready but for its tensors."""
    wanted = os.environ.get("SPARSEDROP_GPU") or "fastest"
    if wanted not in ("fastest", "hopper", "triton"):
        raise ValueError(f"SPARSEDROP_GPU must be fastest, hopper or triton, got {wanted!r}")
    if column.serves(spec):
        return column.Launch(spec)
    if wanted == "triton":
        return triton.Launch(spec)
    reason = hopper.why_not(spec, any_size=wanted == "hopper")
    if reason is None:
        try:
            return hopper.Launch(spec)
        except RuntimeError as error:
            if wanted == "hopper":
                raise
            tell(f"the Hopper kernel does not start, Triton's serve instead: {error}")
    elif wanted == "hopper":
        tell(f"SPARSEDROP_GPU=hopper, but Triton serves what the Hopper kernel does not: {reason}")
    return triton.Launch(spec)


def _common(x: Tensor) -> tuple[torch.device, torch.dtype, str]:
    ieee = x.dtype == torch.float32 and not devices.tf32()
    return x.device, x.dtype, "ieee" if ieee else "tf32"


def _operand(matrix: Tensor, lines: int) -> Operand:
    shape, stride = matrix.shape, matrix.stride()
    return Operand(shape[lines], shape[1 - lines], stride[lines], stride[1 - lines], matrix.data_ptr() % 16 == 0)


def _mask(plan: Tensor | None, block: Sequence[int], rows: int, cols: int) -> Mask | None:
    return None if plan is None else Mask((block[0], block[1]), grid_of(rows, cols, block))


def _flat(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _dense(vector: Tensor | None) -> Tensor | None:
    return vector if vector is None or vector.is_contiguous() else vector.contiguous()

"""Linear layers with block dropout before, after, or on both sides."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .masks import Block, BlockMask, Kind, Probability, check_kind, check_p, draw, random_numbers
from .ops import autograd, layer
from .ops.autocast import cast_operands
from .ops.checks import check_block, check_linear, check_shapes, grid_of
from .ops.schema import REVISION


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    drop_in: BlockMask | None = None,
    drop_out: BlockMask | None = None,
) -> Tensor:
    """A linear layer that skips what its masks drop.

        Y = s_out · M_out ⊙ ( s_in · (M_in ⊙ X) Wᵀ + b )        X: (..., K)   W: (N, K)   b: (N,)   Y: (..., N)

    ``drop_in`` masks X seen as (rows, K), ``drop_out`` masks Y seen as (rows, N); leading dimensions are rows, as in
    `torch.nn.functional.linear`. Dropped elements are +0 whatever they held, in X, Y and both gradients. Without a
    mask this is the plain linear.
    """
    if drop_in is None and drop_out is None:
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        check_call(x, weight, bias, drop_in, drop_out)
        return _fused(x, weight, bias, drop_in, drop_out)
    try:
        return _fused(x, weight, bias, drop_in, drop_out)
    except Exception as error:
        failure = error
    try:
        check_call(x, weight, bias, drop_in, drop_out)
        raise failure
    finally:
        del failure  # Its traceback holds this frame: together they would keep x until the collector comes.


def _fused(
    x: Tensor, weight: Tensor, bias: Tensor | None, drop_in: BlockMask | None, drop_out: BlockMask | None
) -> Tensor:
    """The op. It checks its arguments itself: in eager mode, `check_call` only names the argument at fault."""
    x, weight, bias = cast_operands(x, weight, bias)
    rows, (outputs, inputs) = _rows(x), weight.shape
    into, out = _arguments(drop_in, rows, inputs), _arguments(drop_out, rows, outputs)
    return autograd.linear(x, weight, bias, *into, *out, REVISION)


def _arguments(mask: BlockMask | None, rows: int, cols: int) -> tuple[Any, Any, Any]:
    if mask is None:
        return None, None, ()
    if mask.shape != (rows, cols):
        raise ValueError("the mask does not fit")
    return mask.plan, mask.scale, mask.block


def _rows(x: Tensor) -> int:
    shape = x.shape
    return shape[0] if len(shape) == 2 else math.prod(shape[:-1])


def check_call(
    x: Tensor, weight: Tensor, bias: Tensor | None, drop_in: BlockMask | None, drop_out: BlockMask | None
) -> None:
    """Refuses what `linear` cannot use, in terms of its arguments."""
    check_shapes(x, weight)
    m, n, k = check_linear(*cast_operands(x, weight, bias))
    _check_mask(drop_in, "drop_in", x, m, k)
    _check_mask(drop_out, "drop_out", x, m, n)
    if drop_in is not None and drop_out is not None and drop_in.block[0] != drop_out.block[0]:
        raise ValueError(
            f"drop_in and drop_out must have equal row blocks, got blocks {drop_in.block} and {drop_out.block}"
        )


def _check_mask(mask: BlockMask | None, name: str, x: Tensor, rows: int, cols: int) -> None:
    if mask is None:
        return
    if not isinstance(mask, BlockMask):
        raise TypeError(f"{name} must be a BlockMask or None, got {type(mask).__name__}")
    if mask.shape != (rows, cols):
        raise ValueError(f"{name} must mask {rows} × {cols} elements, got a mask for {mask.shape[0]} × {mask.shape[1]}")
    if mask.device != x.device:
        raise ValueError(f"{name} must be on x's device {x.device}, got {mask.device}")


def dropout_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: Probability = 0.5,
    training: bool = True,
    *,
    block: Block = (128, 128),
    kind: Kind = "bernoulli",
) -> Tensor:
    """Block dropout on the input of a linear layer: Y = s · (M ⊙ X) Wᵀ + b, s = 1/(1 - p).

    X: (..., K), W: (N, K), Y: (..., N). Outside training, and where p is the float 0, the plain linear.
    """
    sizes = _active_block(p, training, block, kind)
    if sizes is None:
        return F.linear(x, weight, bias)
    return _layer(x, weight, bias, p, kind == "balanced", False, sizes)


def linear_dropout(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: Probability = 0.5,
    training: bool = True,
    *,
    block: Block = (128, 128),
    kind: Kind = "bernoulli",
) -> Tensor:
    """Block dropout on the output of a linear layer: Y = s · M ⊙ (X Wᵀ + b), s = 1/(1 - p).

    X: (..., K), W: (N, K), Y: (..., N). Outside training, and where p is the float 0, the plain linear.
    """
    sizes = _active_block(p, training, block, kind)
    if sizes is None:
        return F.linear(x, weight, bias)
    return _layer(x, weight, bias, p, kind == "balanced", True, sizes)


def _layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, p: Probability, balanced: bool, out: bool, block: tuple[int, int]
) -> Tensor:
    served = not torch.compiler.is_compiling() and layer.serves(x, weight, bias, p)
    if not served:
        check_shapes(x, weight)
    shape = _rows(x), weight.shape[0 if out else 1]
    grid = grid_of(*shape, block)
    uniform = random_numbers(grid, balanced, x.device)
    refused = None
    if served:
        try:
            return layer.layer(x, weight, bias, uniform, p, balanced, out, block)
        except layer.Refused as error:  # The parts do it, or say what is wrong.
            refused = error.reason
    mask = draw(uniform, p, balanced, shape, grid, block)
    y = linear(x, weight, bias, drop_out=mask) if out else linear(x, weight, bias, drop_in=mask)
    if refused is not None:
        layer.tell(*refused)
    return y


def _active_block(p: Probability, training: bool, block: Block, kind: str) -> tuple[int, int] | None:
    """The block, or None where there is nothing to drop; bad arguments are refused either way."""
    check_p(p)
    sizes = check_block(block)
    check_kind(kind)
    return sizes if training and (isinstance(p, Tensor) or p != 0) else None

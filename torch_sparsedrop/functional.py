"""Linear layers with block dropout before, after, or on both sides."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .masks import KINDS, Block, BlockMask, Kind, Probability, check_p
from .ops import autograd
from .ops.autocast import cast_operands
from .ops.checks import check_block, check_linear, check_shapes
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
    check_shapes(x, weight)
    x, weight, bias = cast_operands(x, weight, bias)
    m, n, k = check_linear(x, weight, bias)
    into = _mask_arguments(drop_in, "drop_in", x, m, k)
    out = _mask_arguments(drop_out, "drop_out", x, m, n)
    if drop_in is not None and drop_out is not None and drop_in.block[0] != drop_out.block[0]:
        raise ValueError(
            f"drop_in and drop_out must have equal row blocks, got blocks {drop_in.block} and {drop_out.block}"
        )
    return autograd.linear(x, weight, bias, *into, *out, REVISION)


def _mask_arguments(mask: BlockMask | None, name: str, x: Tensor, rows: int, cols: int) -> tuple[Any, Any, list[int]]:
    if mask is None:
        return None, None, []
    if not isinstance(mask, BlockMask):
        raise TypeError(f"{name} must be a BlockMask or None, got {type(mask).__name__}")
    if mask.shape != (rows, cols):
        raise ValueError(f"{name} must mask {rows} × {cols} elements, got a mask for {mask.shape[0]} × {mask.shape[1]}")
    if mask.device != x.device:
        raise ValueError(f"{name} must be on x's device {x.device}, got {mask.device}")
    return mask.plan, mask.scale, list(mask.block)


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
    if _inactive(p, training, block, kind):
        return F.linear(x, weight, bias)
    mask = BlockMask.draw(*_shape(x, weight, 1), p, block=block, kind=kind, device=x.device)
    return linear(x, weight, bias, drop_in=mask)


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
    if _inactive(p, training, block, kind):
        return F.linear(x, weight, bias)
    mask = BlockMask.draw(*_shape(x, weight, 0), p, block=block, kind=kind, device=x.device)
    return linear(x, weight, bias, drop_out=mask)


def _shape(x: Tensor, weight: Tensor, side: int) -> tuple[int, int]:
    """Rows of x, and weight's inputs (side 1) or outputs (side 0)."""
    check_shapes(x, weight)
    return math.prod(x.shape[:-1]), weight.shape[side]


def _inactive(p: Probability, training: bool, block: Block, kind: str) -> bool:
    """Whether there is nothing to drop; bad arguments are refused either way."""
    check_p(p)
    check_block(block)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    return not training or (not isinstance(p, Tensor) and p == 0)

"""FLOP counts for `torch.utils.flop_counter`: the kept work where a mask has data, else the dense count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from .checks import grid_of
from .packing import block_sizes, unpack


def kept_per_row(plan: Tensor | None, block: Sequence[int], rows: int, cols: int) -> Tensor | int:
    """Kept elements in each row: one number per row block, or ``cols`` where nothing is masked."""
    if plan is None:
        return cols
    grid = grid_of(rows, cols, block)
    return (unpack(plan, *grid) * block_sizes(cols, block[1], plan.device)).sum(1)


def kept_multiply_adds(
    m: int, n: int, k: int,
    plan_in: Tensor | None, block_in: Sequence[int], plan_out: Tensor | None, block_out: Sequence[int],
) -> int:  # fmt: skip
    """Multiply-adds that both masks keep, of M·N·K; the same for the product and for the weight's gradient."""
    plans = [plan for plan in (plan_in, plan_out) if plan is not None]
    if not plans or any(isinstance(plan, FakeTensor) or plan.is_meta for plan in plans):
        return m * n * k
    heights = block_sizes(m, (block_in or block_out)[0], plans[0].device)
    kept = kept_per_row(plan_in, block_in, m, k) * kept_per_row(plan_out, block_out, m, n)
    return int((heights * kept).sum())


@register_flop_formula(torch.ops.sparsedrop.linear, get_raw=True)
def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int],
    *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    sizes = math.prod(x.shape[:-1]), weight.shape[0], weight.shape[1]
    return 2 * kept_multiply_adds(*sizes, plan_in, block_in, plan_out, block_out)


@register_flop_formula(torch.ops.sparsedrop.weight_grad, get_raw=True)
def weight_grad(
    grad: Tensor, x: Tensor | None,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int],
    *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    if x is None:
        return 0  # a sum, as PyTorch counts it
    sizes = math.prod(grad.shape[:-1]), grad.shape[-1], x.shape[-1]
    return 2 * kept_multiply_adds(*sizes, plan_in, block_in, plan_out, block_out)

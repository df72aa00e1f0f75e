"""Shapes, strides and dtypes without data: results are always new and contiguous."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import (
    check_activate,
    check_activate_grad,
    check_block,
    check_grid,
    check_linear,
    check_masks,
    check_p_tensor,
    check_uniform,
    check_weight_grad,
    flat_size,
    grid_of,
)
from .layout import layout
from .schema import library


@torch.library.register_fake("sparsedrop::plan", lib=library)
def plan(keep: Tensor, grid: Sequence[int] = ()) -> Tensor:
    rows, cols = check_grid(keep, "keep", torch.bool, grid)
    return keep.new_empty((layout(rows, cols).size,), dtype=torch.int32)


@torch.library.register_fake("sparsedrop::draw", lib=library)
def draw(uniform: Tensor, p: Tensor, balanced: bool, grid: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
    count, rows, cols = check_uniform(uniform, balanced, grid)
    check_p_tensor(p, uniform)
    return (
        uniform.new_empty((flat_size(count * rows, cols),) if len(grid) else (rows, cols), dtype=torch.bool),
        uniform.new_empty((count * layout(rows, cols).size,), dtype=torch.int32),
        uniform.new_empty(()),
    )


@torch.library.register_fake("sparsedrop::linear", lib=library)
def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int], revision: int,
) -> Tensor:  # fmt: skip
    m, n, k = check_linear(x, weight, bias)
    check_masks(m, n, k, x, plan_in, scale_in, block_in, plan_out, scale_out, block_out)
    return x.new_empty((*x.shape[:-1], n))


@torch.library.register_fake("sparsedrop::weight_grad", lib=library)
def weight_grad(
    grad: Tensor, x: Tensor | None,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int], revision: int,
) -> Tensor:  # fmt: skip
    m, n, k = check_weight_grad(grad, x, plan_in)
    check_masks(m, n, k, grad, plan_in, scale_in, block_in, plan_out, scale_out, block_out)
    return grad.new_empty((n, k))


@torch.library.register_fake("sparsedrop::activate", lib=library)
def activate(
    x: Tensor, bias: Tensor | None, function: int, plan: Tensor, block: Sequence[int], revision: int
) -> Tensor:  # fmt: skip
    check_activate(x, bias, function, plan, block)
    return x.new_empty(x.shape)


@torch.library.register_fake("sparsedrop::activate_grad", lib=library)
def activate_grad(
    grad: Tensor, x: Tensor, bias: Tensor | None, function: int, plan: Tensor, block: Sequence[int], revision: int
) -> tuple[Tensor, Tensor]:
    check_activate(x, bias, function, plan, block)
    check_activate_grad(grad, x)
    return x.new_empty(x.shape), x.new_empty((0,)) if bias is None else bias.new_empty(bias.shape)


@torch.library.register_fake("sparsedrop::layer", lib=library)
def layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, uniform: Tensor, p: Tensor | None, number: float,
    balanced: bool, out: bool, block: Sequence[int], revision: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    m, n, k = check_linear(x, weight, bias)
    rows, cols = grid_of(m, n if out else k, check_block(list(block)))
    check_grid(uniform, "uniform", torch.float32, (rows, cols), int(balanced))
    if uniform.device != x.device:
        raise ValueError(f"uniform must be on x's device {x.device}, got {uniform.device}")
    if p is not None:
        check_p_tensor(p, uniform)
    return (
        x.new_empty((*x.shape[:-1], n)),
        uniform.new_empty((layout(rows, cols).size,), dtype=torch.int32),
        uniform.new_empty(()),
    )

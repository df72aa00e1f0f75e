"""Shapes, strides and dtypes without data: results are always new and contiguous."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_linear, check_masks, check_weight_grad
from .layout import layout
from .schema import library


@torch.library.register_fake("sparsedrop::plan", lib=library)
def plan(keep: Tensor) -> Tensor:
    check_keep(keep)
    return keep.new_empty((layout(*keep.shape).size,), dtype=torch.int32)


@torch.library.register_fake("sparsedrop::draw", lib=library)
def draw(uniform: Tensor, p: Tensor, balanced: bool) -> tuple[Tensor, Tensor, Tensor]:
    check_draw(uniform, p)
    rows, cols = uniform.shape[0], uniform.shape[1] - int(balanced)
    return (
        uniform.new_empty((rows, cols), dtype=torch.bool),
        uniform.new_empty((layout(rows, cols).size,), dtype=torch.int32),
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
    grad: Tensor, x: Tensor,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int], revision: int,
) -> Tensor:  # fmt: skip
    m, n, k = check_weight_grad(grad, x)
    check_masks(m, n, k, x, plan_in, scale_in, block_in, plan_out, scale_out, block_out)
    return x.new_empty((n, k))


def check_keep(keep: Tensor) -> None:
    if keep.dtype != torch.bool or keep.dim() != 2:
        raise ValueError(f"keep must be a 2-dim bool tensor, got {keep.dtype} of shape {tuple(keep.shape)}")


def check_draw(uniform: Tensor, p: Tensor) -> None:
    if uniform.dtype != torch.float32 or uniform.dim() != 2:
        raise ValueError(f"uniform must be 2-dim float32, got {uniform.dtype} of shape {tuple(uniform.shape)}")
    if p.dtype != torch.float32 or p.dim() != 0:
        raise ValueError(f"p must be a 0-dim float32 tensor, got {p.dtype} of shape {tuple(p.shape)}")
    if p.device != uniform.device:
        raise ValueError(f"p must be on uniform's device {uniform.device}, got {p.device}")

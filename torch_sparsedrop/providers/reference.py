"""The provider of last resort: plain PyTorch on any device. Right, slow, and it says so once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops import packing
from ..ops.checks import (
    check_activate,
    check_activate_grad,
    check_grid,
    check_linear,
    check_masks,
    check_p_tensor,
    check_uniform,
    check_weight_grad,
    grid_of,
)
from ..ops.functions import FUNCTIONS, RELU
from ..ops.schema import library
from ..reference import masked_linear, masked_weight_grad
from .status import Status

NAME = "reference"

_KEY = "CompositeExplicitAutograd"
_told: set[str] = set()


def _tell(device: str) -> None:
    if device not in _told:
        _told.add(device)
        warnings.warn(
            f"torch_sparsedrop: no fused kernels for device '{device}' here; the plain-PyTorch reference serves, "
            "which saves no time. `python -m torch_sparsedrop info` says why.",
            stacklevel=3,
        )


def status(device: torch.device, dtype: torch.dtype) -> Status:
    """It serves everything."""
    return Status(True, "plain PyTorch: right, but saves no time")


def plan(keep: Tensor, grid: Sequence[int] = ()) -> Tensor:
    rows, cols = check_grid(keep, "keep", torch.bool, grid)
    return packing.pack(packing.matrix(keep, rows, cols))


def draw(uniform: Tensor, p: Tensor | float, balanced: bool, grid: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
    count, rows, cols = check_uniform(uniform, balanced, grid)
    p = p if isinstance(p, Tensor) else uniform.new_full((), p)
    check_p_tensor(p, uniform)
    keep, plan, scale = packing.draw(packing.matrix(uniform, count * rows, cols + balanced), p, balanced, count)
    return packing.flat(keep) if len(grid) else keep, plan, scale


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    m, n, k = check_linear(x, weight, bias)
    _tell(x.device.type)
    masks = _dense(m, n, k, x, *rest)
    # Not a view: callers may write to the result in place.
    y = x.new_empty((*x.shape[:-1], n))
    y.view(m, n).copy_(masked_linear(x.reshape(m, k), weight, bias, *masks))
    return y


def weight_grad(grad: Tensor, x: Tensor | None, plan_in: Tensor | None, *rest: Any) -> Tensor:
    m, n, k = check_weight_grad(grad, x, plan_in)
    _tell(grad.device.type)
    masks = _dense(m, n, k, grad, plan_in, *rest)
    x = grad.new_ones((m, k)) if x is None else x.reshape(m, k)
    return masked_weight_grad(grad.reshape(m, n), x, *masks)


def activate(
    x: Tensor, bias: Tensor | None, function: int, plan: Tensor, block: Sequence[int], revision: int
) -> Tensor:  # fmt: skip
    rows, cols = check_activate(x, bias, function, plan, block)
    y = FUNCTIONS[function].value(_biased(x, bias))
    return torch.where(_kept(plan, rows, cols, block).view(x.shape), y, 0).to(x.dtype).contiguous()


def activate_grad(
    grad: Tensor, x: Tensor, bias: Tensor | None, function: int, plan: Tensor, block: Sequence[int], revision: int
) -> tuple[Tensor, Tensor]:
    rows, cols = check_activate(x, bias, function, plan, block)
    check_activate_grad(grad, x)
    z = _biased(x, None if function == RELU else bias)
    dz = FUNCTIONS[function].gradient(grad.to(z.dtype), z)
    dz = torch.where(_kept(plan, rows, cols, block).view(x.shape), dz, 0)
    db = x.new_empty((0,)) if bias is None else dz.reshape(rows, cols).sum(0).to(bias.dtype)
    return dz.to(x.dtype).contiguous(), db


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide if bias is None else wide + bias.to(wide.dtype)


def _dense(
    m: int, n: int, k: int, x: Tensor,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int], revision: int,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Both masks over their elements, each followed by its scale."""
    check_masks(m, n, k, x, plan_in, scale_in, block_in, plan_out, scale_out, block_out)
    return _spread(plan_in, m, k, block_in), scale_in, _spread(plan_out, m, n, block_out), scale_out


def _spread(plan: Tensor | None, rows: int, cols: int, block: Sequence[int]) -> Tensor | None:
    return None if plan is None else _kept(plan, rows, cols, block)


def _kept(plan: Tensor, rows: int, cols: int, block: Sequence[int]) -> Tensor:
    keep = packing.unpack(plan, *grid_of(rows, cols, block))
    return packing.spread(keep, rows, cols, (block[0], block[1]))


for _kernel in (plan, draw, linear, weight_grad, activate, activate_grad):
    library.impl(_kernel.__name__, _kernel, _KEY)

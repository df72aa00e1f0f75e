"""`sparsedrop::plan` and `sparsedrop::draw`, one launch each."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...ops import packing
from ...ops.fakes import check_draw, check_keep
from ...ops.layout import layout
from .plan_kernel import make_plan
from .start import Start
from .tiles import ceil_div, power_of_2

_LINES = 16
_TILE = 8192
_WIDEST = 1024
_WARPS = 8


def plan(keep: Tensor) -> Tensor:
    check_keep(keep)
    if keep.numel() == 0:
        return packing.pack(keep)
    rows, cols = keep.shape
    start, size = _prepare(rows, cols, *keep.stride(), "given", keep.device, keep.data_ptr() % 16 == 0)
    result = torch.empty(size, dtype=torch.int32, device=keep.device)
    start(keep, None, None, result, None)
    return result


def draw(uniform: Tensor, p: Tensor, balanced: bool) -> tuple[Tensor, Tensor, Tensor]:
    check_draw(uniform, p)
    rows, cols = uniform.shape[0], uniform.shape[1] - balanced
    if rows * cols == 0 or (balanced and cols > _WIDEST):
        return packing.draw(uniform, p, balanced)
    mode = "balanced" if balanced else "bernoulli"
    aligned = uniform.data_ptr() % 16 == 0, p.data_ptr() % 16 == 0
    start, size = _prepare(rows, cols, *uniform.stride(), mode, uniform.device, aligned)
    keep = uniform.new_empty((rows, cols), dtype=torch.bool)
    result = uniform.new_empty((size,), dtype=torch.int32)
    scale = uniform.new_empty(())
    start(uniform, p, keep, result, scale)
    return keep, result, scale


@functools.lru_cache(maxsize=4096)
def _prepare(
    rows: int, cols: int, stride_row: int, stride_col: int, mode: str, device: torch.device, aligned: object
) -> tuple[Start, int]:
    """The launch for a grid, and its plan's size. ``aligned`` tells launches apart that compile differently."""
    width = power_of_2(cols) if mode == "balanced" else 1
    most = 256 if mode != "balanced" else 64 if width <= 64 else 32
    sizes = []
    for lines, length in ((rows, cols), (cols, rows)):
        places = min(max(32, power_of_2(length)), most)
        others = min(_TILE // max(places, width), power_of_2(lines))
        sizes += [max(16, others), places]
    at = layout(rows, cols)
    grid = (ceil_div(rows, _LINES) + ceil_div(cols, _LINES), 1, 1)
    statics = (rows, cols, stride_row, stride_col, *at[:-1], mode, width, _LINES, *sizes)
    return Start(make_plan, grid, statics, _WARPS, 1), at.size

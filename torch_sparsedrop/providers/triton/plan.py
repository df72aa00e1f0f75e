"""`sparsedrop::plan` and `sparsedrop::draw`, one launch each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops import packing
from ...ops.checks import check_grid, check_p_tensor, check_uniform, flat_size
from ...ops.layout import layout
from .. import reference
from ..cuda.problem import ceil_div
from ..cuda.ready import Ready
from .plan_kernel import make_plan
from .start import Start
from .tiles import power_of_2

_LINES = 16
_TILE = 8192
# Where all counts are counted again so often that plain PyTorch's several launches take less time.
_MOST_BLOCKS = 2**17
_MOST_BALANCED = 2**22
_MOST_MASKS = 2**16 - 1
_WARPS = 8


def plan(*arguments: Any) -> Tensor:
    (result,), _ = serve_plan(*arguments)
    return result


def serve_plan(keep: Tensor, grid: Sequence[int] = ()) -> tuple[tuple[Tensor], None]:
    rows, cols = check_grid(keep, "keep", torch.bool, grid)
    if not _one_launch(rows, cols):
        return (packing.pack(packing.matrix(keep, rows, cols)),), None
    strides = (cols * keep.stride(0), keep.stride(0)) if len(grid) else keep.stride()
    start, size = _prepare(1, rows, cols, *strides, "given", False, keep.device, keep.data_ptr() % 16 == 0)
    result = torch.empty(size, dtype=torch.int32, device=keep.device)
    start(keep, None, None, result, None)
    return (result,), None


def draw(*arguments: Any) -> tuple[Tensor, ...]:
    return serve_draw(*arguments)[0]


def serve_draw(
    uniform: Tensor, p: Tensor | float, balanced: bool, grid: Sequence[int] = ()
) -> tuple[tuple[Tensor, ...], Ready | None]:
    count, rows, cols = check_uniform(uniform, balanced, grid)
    if isinstance(p, Tensor):
        check_p_tensor(p, uniform)
    if not 0 < count <= _MOST_MASKS or not _one_launch(rows, cols, balanced):
        return reference.draw(uniform, p, balanced, grid), None
    mode = "balanced" if balanced else "bernoulli"
    number = not isinstance(p, Tensor)
    aligned = uniform.data_ptr() % 16 == 0, p.data_ptr() % 16 == 0 if isinstance(p, Tensor) else None
    step = uniform.stride(0)
    strides = ((cols + balanced) * step, step) if len(grid) else uniform.stride()
    start, size = _prepare(count, rows, cols, *strides, mode, number, uniform.device, aligned)
    keep = uniform.new_empty((flat_size(count * rows, cols),) if len(grid) else (rows, cols), dtype=torch.bool)
    result = uniform.new_empty((size,), dtype=torch.int32)
    scale = uniform.new_empty(())
    start(uniform, p, keep, result, scale)
    ready = None if start.launch is None else Ready([start.launch])
    return (keep, result, scale), ready


def _one_launch(rows: int, cols: int, balanced: bool = False) -> bool:
    blocks = rows * cols
    return 0 < blocks <= _MOST_BLOCKS and (not balanced or blocks * cols <= _MOST_BALANCED)


@functools.lru_cache(maxsize=4096)
def _prepare(
    count: int, rows: int, cols: int, stride_row: int, stride_col: int, mode: str, number: bool, device: torch.device,
    aligned: object,
) -> tuple[Start, int]:  # fmt: skip
    """The launch for ``count`` masks, and their plans' size. ``number``: p comes as one. ``aligned``: what else it is
    compiled for."""
    sizes = []
    for lines, length in ((rows, cols), (cols, rows)):
        places = min(max(32, power_of_2(length)), 256)
        sizes += [max(16, min(_TILE // places, power_of_2(lines))), places]
    at = layout(rows, cols)
    grid = (2 * (ceil_div(rows, _LINES) + ceil_div(cols, _LINES)), count, 1)
    statics = (rows, cols, stride_row, stride_col, *at, mode, number, _LINES, *sizes)
    return Start(make_plan, grid, statics, _WARPS, 1, range(5)), count * at.size

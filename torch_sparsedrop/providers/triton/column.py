"""The masked reduction against one column, or against ones, as a bias has its gradient: every element is read once, so
that tensor cores would wait for memory, and what counts is how much is read at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.checks import grid_of
from ...ops.layout import layout
from ..cuda import device as devices
from ..cuda import ready
from ..cuda.problem import Spec, ceil_div
from .column_kernel import add_rows, sum_rows
from .start import Start
from .tiles import power_of_2

_WARPS = 2
_ROWS, _COLUMNS = 16, 64
_ADD_WARPS = 4
_ADD_COLUMNS = 64
_PROGRAMS = 16
_MOST_PARTS = 128


def parts_of(down: int, across: int, multiprocessors: int) -> tuple[int, int]:
    """Into how many parts ``down`` tiles are divided where ``across`` stand side by side, and the tiles of one."""
    if not down or not across:
        return 1, 0
    wanted = ceil_div(_PROGRAMS * multiprocessors, across)
    each = ceil_div(down, max(1, min(down, wanted, _MOST_PARTS)))
    return ceil_div(down, each), each


def adding(count: int, columns: int, slots: tuple[int, ...]) -> Start:
    """The launch that adds ``count`` parts. ``slots``: of the parts, their sum and two scales."""
    statics = count, columns, power_of_2(count), _ADD_COLUMNS
    return Start(add_rows, (ceil_div(columns, _ADD_COLUMNS), 1, 1), statics, _ADD_WARPS, 1, slots)


def serves(spec: Spec) -> bool:
    return spec.reduction and spec.b.lines == 1 and spec.walk_b is None and spec.a.stride_line == 1


class Launch(ready.Ready):
    """A reduction that is ready but for its tensors, called as `launch.Launch` is."""

    def __init__(self, spec: Spec) -> None:
        a, mask = spec.a, spec.walk_a
        block_r, block_c = (_ROWS, _COLUMNS) if mask is None else mask.block
        rows, cols = grid = grid_of(a.t, a.lines, (block_r, block_c))
        r, c = min(_ROWS, power_of_2(block_r)), min(_COLUMNS, power_of_2(block_c))
        down, across = rows * ceil_div(block_r, r), cols * ceil_div(block_c, c)
        count, each = parts_of(down, across, devices.multiprocessors(spec.device))
        super().__init__(workspace_bytes=4 * count * a.lines)
        bits, words = layout(*grid).row_bits, 2 * ceil_div(cols, 64)
        statics = (a.t, a.lines, a.stride_t, spec.b.stride_t, bits, words, down, each, block_r, block_c, r, c)
        slots = ready.A, ready.B, ready.WORKSPACE, ready.WALK_A
        self.sum = Start(sum_rows, (across, count, 1), statics, _WARPS, 1, slots)
        self.add = adding(count, a.lines, (ready.WORKSPACE, ready.C, ready.SCALE_1, ready.SCALE_2))

    def __call__(
        self, a: Tensor, b: Tensor | None, c: Tensor, bias: Tensor | None,
        scale_1: Tensor | None, scale_2: Tensor | None,
        walk_a: Tensor | None, walk_b: Tensor | None, out: Tensor | None,
    ) -> None:  # fmt: skip
        if self.launches:
            self.start(a, b, c, bias, scale_1, scale_2, walk_a, walk_b, out)
            return
        parts = torch.empty(self.workspace_bytes // 4, dtype=torch.float32, device=c.device)
        self.sum(a, b, parts, walk_a)
        self.add(parts, c, scale_1, scale_2)
        if self.sum.launch is not None and self.add.launch is not None:
            self.launches = [self.sum.launch, self.add.launch]

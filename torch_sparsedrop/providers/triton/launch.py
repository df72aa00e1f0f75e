"""From shapes and strides to a launch: all that does not depend on the data is worked out once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ...ops.layout import layout
from ..cuda import device as devices
from ..cuda import ready
from ..cuda.problem import Operand, Spec, ceil_div
from .kernel import add_parts, matmul
from .start import Start
from .tiles import Problem
from .tuned import tile_for

_ADD_SIZE = 1024
_WORTH_COPYING = 2**20


class Launch(ready.Ready):
    """A product or reduction, ready but for its tensors. The first call also makes what the native part starts."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.problem = _problem(spec)
        self.tile = tile = tile_for(self.problem)
        self.reduction = spec.reduction
        self.copy_a, self.copy_b = _wants_copy(spec, spec.a), _wants_copy(spec, spec.b)
        self.copies = self.copy_a or self.copy_b
        a = spec.a.copied() if self.copy_a else spec.a
        b = spec.b.copied() if self.copy_b else spec.b
        c = spec.c
        blocks = spec.blocks()
        whole = [block is None or block % size == 0 for block, size in zip(blocks, tile, strict=False)]
        hopper = devices.capability(spec.device) >= (9, 0)
        tma_a = hopper and whole[0] and whole[2] and a.tma(spec.dtype)
        tma_b = hopper and whole[1] and whole[2] and b.tma(spec.dtype)
        tma_c = hopper and whole[0] and whole[1] and tile.parts == 1 and c.tma(spec.dtype)
        self.boxes = (
            _box(a, tile.a, tile.t) if tma_a else None,
            _box(b, tile.b, tile.t) if tma_b else None,
            _box(c, tile.a, tile.b) if tma_c else None,
        )
        block_a, block_b, block_t = (block or size for block, size in zip(blocks, tile, strict=False))
        tiles_a = ceil_div(a.lines, block_a) * ceil_div(block_a, tile.a)
        tiles_b = ceil_div(b.lines, block_b) * ceil_div(block_b, tile.b)
        statics = (
            a.lines, b.lines, a.t,
            a.stride_line, a.stride_t, b.stride_line, b.stride_t, c.stride_line, c.stride_t,
            *_lists(spec), tiles_a, tiles_b, ceil_div(a.t, block_t),
            block_a, block_b, block_t, tile.a, tile.b, tile.t, tile.group,
            a.t_first, b.t_first, c.t_first, tma_a, tma_b, tma_c, spec.precision, tile.parts > 1,
        )  # fmt: skip
        order = ready.OUT if spec.walk_a is None else ready.WALK_A
        target = ready.C if tile.parts == 1 else ready.WORKSPACE
        scales, walks = (ready.SCALE_1, ready.SCALE_2), (ready.WALK_A, ready.WALK_B)
        slots = ready.A, ready.B, target, ready.BIAS, *scales, *walks, order, ready.OUT
        self.multiply = Start(matmul, (tiles_a * tiles_b, tile.parts, 1), statics, tile.warps, tile.stages, slots)
        size = a.lines * b.lines
        added = ready.WORKSPACE, ready.C, *scales
        self.add = Start(add_parts, (ceil_div(size, _ADD_SIZE), 1, 1), (size, tile.parts, _ADD_SIZE), 4, 1, added)
        self.workspace_bytes = 4 * size * tile.parts if tile.parts > 1 else 0

    def __call__(
        self, a: Tensor, b: Tensor, c: Tensor, bias: Tensor | None, scale_1: Tensor | None, scale_2: Tensor | None,
        walk_a: Tensor | None, walk_b: Tensor | None, out: Tensor | None,
    ) -> None:  # fmt: skip
        if self.copy_a:
            a = self._copy(a)
        if self.copy_b:
            b = self._copy(b)
        if self.launches:
            self.start(a, b, c, bias, scale_1, scale_2, walk_a, walk_b, out)
            return
        order = out if walk_a is None else walk_a
        rest = bias, scale_1, scale_2, walk_a, walk_b, order, out
        box_a, box_b, box_c = self.boxes
        left = a if box_a is None else _descriptor(a, box_a)
        right = b if box_b is None else _descriptor(b, box_b)
        if self.tile.parts == 1:
            self.multiply(left, right, c if box_c is None else _descriptor(c, box_c), *rest)
            starts = [self.multiply]
        else:
            parts = torch.empty((self.tile.parts, *c.shape), dtype=torch.float32, device=c.device)
            self.multiply(left, right, parts, *rest)
            self.add(parts, c, scale_1, scale_2)
            starts = [self.multiply, self.add]
        if all(start.launch is not None for start in starts):
            self.launches = [start.launch for start in starts]

    def _copy(self, matrix: Tensor) -> Tensor:
        lines_first = matrix.t() if self.reduction else matrix
        lines, t = lines_first.shape
        return matrix.new_empty((lines, ceil_div(t, 8) * 8))[:, :t].copy_(lines_first)


def _wants_copy(spec: Spec, o: Operand) -> bool:
    """Whether reading an operand where it lies would cost more than a copy: rows that the copy engine refuses, or for
    TF32, whose tensor cores take no operand with t outside, those."""
    if devices.capability(spec.device) < (9, 0) or spec.precision == "ieee" or o.lines * o.t < _WORTH_COPYING:
        return False
    return not o.tma(spec.dtype) or (o.t_first and spec.dtype == torch.float32)


def _box(o: Operand, line: int, t: int) -> dict[str, Any]:
    """What a descriptor says besides the address."""
    if o.t_first:
        return {"shape": [o.t, o.lines], "strides": [o.stride_t, 1], "block_shape": [t, line], "padding": "zero"}
    return {"shape": [o.lines, o.t], "strides": [o.stride_line, 1], "block_shape": [line, t], "padding": "zero"}


def _descriptor(tensor: Tensor, box: dict[str, Any]) -> TensorDescriptor:
    # Its own constructor checks what `Operand.tma` has checked, at several times the cost.
    descriptor = object.__new__(TensorDescriptor)
    descriptor.__dict__.update(box, base=tensor)
    return descriptor


def _problem(spec: Spec) -> Problem:
    capability, multiprocessors = devices.capability(spec.device), devices.multiprocessors(spec.device)
    sizes = spec.a.lines, spec.b.lines, spec.a.t
    return Problem(
        spec.dtype, spec.precision, capability, multiprocessors, *sizes, *spec.blocks(), spec.reduction
    )  # fmt: skip


def _lists(spec: Spec) -> tuple[int, int, int, int, int, int, int]:
    """Where the kernel finds the bitmaps of both walks, words in a line, the order of lines, and C's blocks."""
    bits = [0, 0]
    words = order = count = index = cols = 0
    if spec.out is not None:
        at = layout(*spec.out.grid)
        order, count, index, cols = at.row_order, at.row_count, at.row_index, spec.out.grid[1]
    for i, mask in ((1, spec.walk_b), (0, spec.walk_a)):
        if mask is not None:
            at = layout(*mask.grid)
            bits[i], order = (at.col_bits, at.col_order) if spec.reduction else (at.row_bits, at.row_order)
            words = ceil_div(spec.sides(mask.grid)[1], 64)
    return bits[0], bits[1], words, order, count, index, cols

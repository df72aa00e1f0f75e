"""From a problem to launches of the Hopper kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ...ops.layout import layout
from ..cuda import device as devices
from ..cuda import ready
from ..cuda.problem import Operand, Spec, ceil_div
from . import kernel

# Fewer tiles, or fewer steps for each multiprocessor, and smaller tiles are faster (2048³ on an H200 is just below).
_LEAST_TILES = 0.5
_LEAST_STEPS = 34
# Steps for each multiprocessor if nothing is dropped. With 2000 on an H200, thread blocks that share A are faster; with
# 500 it makes no difference.
_LEAST_PAIRED_STEPS = 1000
_MOST_BEYOND = 0.02


def why_not(spec: Spec, any_size: bool = False) -> str | None:
    """Why this kernel does not serve a problem; None where it does. ``any_size``: also where another is faster."""
    reason = kernel.why_not(devices.capability(spec.device), spec.dtype) or _unfit(spec)
    return reason if reason is not None or any_size else _small(spec)


def _unfit(spec: Spec) -> str | None:
    """What the kernel cannot do."""
    host = kernel.host()
    tile, slab = host.tile[0], host.slab
    block_a, block_b, block_t = spec.blocks()
    if spec.walk_b is not None:
        return "a sum that both masks shorten"
    if (block_a or tile) % tile or (block_b or slab) % slab or (block_t or host.step) % host.step:
        return f"mask blocks that are no multiples of {tile} × {slab}"
    if not all(operand.tma(spec.dtype) for operand in (spec.a, spec.b, spec.c)):
        return "a matrix whose rows do not begin at multiples of 16 bytes"
    rows = Rows.of(spec, 1)
    if rows.lines > host.most_lines or rows.in_a_block * rows.sections > host.most_rows:
        return "so many rows"
    if _whole(spec.b.lines, block_b) > host.longest or _whole(spec.a.t, block_t) > host.longest:
        return "so many columns"
    return None


def _small(spec: Spec) -> str | None:
    """Where smaller tiles win."""
    host = kernel.host()
    tiles = ceil_div(spec.a.lines, host.tile[0]) * ceil_div(spec.b.lines, host.tile[1])
    blocks = devices.multiprocessors(spec.device)
    few = tiles < _LEAST_TILES * blocks or tiles * ceil_div(spec.a.t, host.step) < _LEAST_STEPS * blocks
    return "problems of that size, which smaller tiles serve faster" if few or spec.b.lines < 2 * host.slab else None


def _whole(size: int, block: int | None) -> int:
    """``size`` in whole blocks."""
    return size if block is None else ceil_div(size, block) * block


def _pair(spec: Spec) -> int:
    """How many thread blocks multiply side by side: they fetch A once for both, but wait for each other."""
    host = kernel.host()
    blocks, wide = devices.multiprocessors(spec.device), 2 * host.tile[1]
    steps = ceil_div(spec.a.lines, host.tile[0]) * (spec.b.lines // host.tile[1]) * ceil_div(spec.a.t, host.step)
    # What lies beyond C's edge is computed too.
    beyond = ceil_div(spec.b.lines, wide) * wide - spec.b.lines
    large = steps >= _LEAST_PAIRED_STEPS * blocks and beyond <= _MOST_BEYOND * spec.b.lines
    if not large or spec.out is not None or blocks % 2:
        return 1
    # Where they take half tiles and one alone does not, a launch's table may be too short.
    rows = Rows.of(spec, 2)
    return 2 if rows.in_a_block * rows.sections <= host.most_rows else 1


class Rows(NamedTuple):
    """How C divides: ``lines`` of mask blocks, rows of tiles ``in_a_block``, each row in ``panels`` of ``panel`` slabs
    that run ``together`` with those of other rows. ``sections``: the panels and, where rows can end with half a tile,
    one more."""

    lines: int
    in_a_block: int
    together: int
    panel: int
    panels: int
    sections: int

    @staticmethod
    def of(spec: Spec, pair: int) -> Rows:
        host = kernel.host()
        block_a, block_b, _ = spec.blocks()
        block = block_a or host.tile[0]
        slabs = ceil_div(_whole(spec.b.lines, None if spec.out is None else block_b), host.slab)
        lines, in_a_block = ceil_div(spec.a.lines, block), block // host.tile[0]
        # Groups of nearly as many rows, and as much at a time whatever their number.
        rows, tile = lines * in_a_block, pair * host.tile[1] // host.slab
        together = ceil_div(rows, ceil_div(rows, host.together))
        panel = min(host.together * host.panel // (together * tile) * tile, host.widest_panel)
        panels = ceil_div(slabs, panel)
        if spec.out is None:
            even = slabs % tile == 0 or slabs % tile > tile // 2
        else:
            even = (block_b or 0) % (pair * host.tile[1]) == 0
        return Rows(lines, in_a_block, together, panel, panels, panels + (not even))


class Launch(ready.Ready):
    """A product or reduction, ready but for its tensors."""

    def __init__(self, spec: Spec) -> None:
        host = kernel.host()
        _, block_b, _ = spec.blocks()
        piece = host.slab if (block_b or 0) % (2 * host.slab) else 2 * host.slab
        self.pair = pair = _pair(spec)
        variant = kernel.Variant(spec.dtype, spec.a.t_first, spec.b.t_first, spec.c.t_first, piece, pair)
        handle = kernel.load(spec.device, variant)
        rows = Rows.of(spec, pair)
        boxes = (
            _box(spec.a, host.step, host.tile[0] // pair, spec.dtype),
            _box(spec.b, host.step, piece, spec.dtype),
            _box(spec.c, host.slab, host.slab, spec.dtype),
            _box(spec.c, host.slab, host.zero_rows, spec.dtype),
        )
        walk, out = _lists(spec)
        # A launch's rows fit the table that the kernel makes of them.
        each = host.most_rows // (rows.sections * rows.in_a_block) * rows.in_a_block
        count = rows.lines * rows.in_a_block
        blocks = devices.multiprocessors(spec.device)
        launches = [
            host.Launch(
                device=spec.device.index, kernel=handle, blocks=blocks,
                shared_bytes=kernel.SHARED_BYTES, type=kernel.TYPES[spec.dtype][1], boxes=boxes, walk=walk, out=out,
                sizes=(spec.a.lines, spec.b.lines, spec.a.t), first_row=first, rows=min(each, count - first),
                lines=rows.lines, together=rows.together, panel=rows.panel, panels=rows.panels,
                sections=rows.sections, rows_per_block=rows.in_a_block,
            )
            for first in range(0, count, each)
        ]  # fmt: skip
        super().__init__(launches, host.hopper_workspace(blocks))

    __call__ = ready.Ready.start


def _lists(spec: Spec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where each mask's counts, lists and order lie, the lists' length, and the block along them."""
    # Where no mask shortens the sum, each step is a block.
    walk: tuple[int, ...] = (0, 0, 0, 0, kernel.host().step)
    out: tuple[int, ...] = (0, 0, 0, 0, 0)
    if spec.walk_a is not None:
        at, (rows, cols), block = layout(*spec.walk_a.grid), spec.walk_a.grid, spec.walk_a.block
        by_column = (at.col_count, at.col_index, at.col_order, rows, block[0])
        walk = by_column if spec.reduction else (at.row_count, at.row_index, at.row_order, cols, block[1])
    if spec.out is not None:
        at = layout(*spec.out.grid)
        out = at.row_count, at.row_index, at.row_order, spec.out.grid[1], spec.out.block[1]
    return walk, out


def _box(o: Operand, inner: int, outer: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """A matrix as it lies in memory, its rows' stride in bytes, and the box that one copy moves."""
    if o.t_first:
        return o.lines, o.t, o.stride_t * dtype.itemsize, 64, min(outer, 64)
    return o.t, o.lines, o.stride_line * dtype.itemsize, inner, outer

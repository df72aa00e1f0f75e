"""From a problem to launches of the Hopper kernel."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ...ops.layout import layout
from ..cuda import device as devices
from ..cuda.problem import Operand, Spec, ceil_div
from . import kernel

TILE_A, TILE_B, STEP, SLAB = 128, 256, 64, 64
_ZERO_ROWS = 8
# Fewer tiles, or fewer steps for each multiprocessor, and smaller tiles are faster (2048³ on an H200 is just below).
_LEAST_TILES = 0.5
_LEAST_STEPS = 34


def why_not(spec: Spec, any_size: bool = False) -> str | None:
    """Why this kernel does not serve a problem; None where it does. ``any_size``: also where another is faster."""
    reason = kernel.why_not(devices.capability(spec.device), spec.dtype) or _unfit(spec)
    return reason if reason is not None or any_size else _small(spec)


def _unfit(spec: Spec) -> str | None:
    """What the kernel cannot do."""
    block_a, block_b, block_t = spec.blocks()
    host = importlib.import_module("torch_sparsedrop._host")
    if spec.walk_b is not None:
        return "a sum that both masks shorten"
    if (block_a or TILE_A) % TILE_A or (block_b or SLAB) % SLAB or (block_t or STEP) % STEP:
        return f"mask blocks that are no multiples of {TILE_A} × {SLAB}"
    if not all(operand.tma(spec.dtype) for operand in (spec.a, spec.b, spec.c)):
        return "a matrix whose rows do not begin at multiples of 16 bytes"
    if ceil_div(spec.a.lines, TILE_A) > host.most_lines or max(spec.a.t, spec.b.lines) > 2**20:
        return "matrices of that length"
    return None


def _small(spec: Spec) -> str | None:
    """Where smaller tiles win."""
    tiles = ceil_div(spec.a.lines, TILE_A) * ceil_div(spec.b.lines, TILE_B)
    blocks = devices.multiprocessors(spec.device)
    if (
        spec.b.lines < 2 * SLAB
        or tiles < _LEAST_TILES * blocks
        or tiles * ceil_div(spec.a.t, STEP) < _LEAST_STEPS * blocks
    ):
        return "problems of that size, which smaller tiles serve faster"
    return None


class Launch:
    """A product or reduction, ready but for its tensors."""

    def __init__(self, spec: Spec) -> None:
        host = importlib.import_module("torch_sparsedrop._host")
        block_a, block_b, _ = spec.blocks()
        variant = kernel.Variant(
            spec.dtype,
            spec.a.t_first,
            spec.b.t_first,
            spec.c.t_first,
            2 * SLAB if (block_b or TILE_B) % 128 == 0 else SLAB,
        )
        handle = kernel.load(spec.device, variant)
        lines, rows_per_block = ceil_div(spec.a.lines, block_a or TILE_A), (block_a or TILE_A) // TILE_A
        rows = lines * rows_per_block
        slabs = ceil_div(spec.b.lines, SLAB) if spec.out is None else spec.out.grid[1] * (spec.out.block[1] // SLAB)
        panels = ceil_div(slabs, host.panel)
        boxes = (
            _box(spec.a, STEP, TILE_A, spec.dtype),
            _box(spec.b, STEP, variant.piece, spec.dtype),
            _box(spec.c, SLAB, SLAB, spec.dtype),
            _box(spec.c, SLAB, _ZERO_ROWS, spec.dtype),
        )
        walk, out = _lists(spec)
        most = devices.multiprocessors(spec.device)
        # A launch's rows fit the table that the kernel makes of them.
        each = max(1, host.most_rows // panels // rows_per_block) * rows_per_block
        self.device = spec.device.index
        self.launches = [
            host.Launch(
                kernel=handle, blocks=most, shared_bytes=kernel.SHARED_BYTES, type=kernel.TYPES[spec.dtype][1],
                boxes=boxes, walk=walk, out=out, sizes=(spec.a.lines, spec.b.lines, spec.a.t), first_row=first,
                rows=min(each, rows - first), lines=lines, panels=panels, rows_per_block=rows_per_block,
            )
            for first in range(0, rows, each)
        ]  # fmt: skip
        self.workspace_bytes = max(launch.workspace_bytes for launch in self.launches)

    def __call__(
        self, a: Tensor, b: Tensor, c: Tensor, bias: Tensor | None, scale_1: Tensor | None, scale_2: Tensor | None,
        walk_a: Tensor | None, walk_b: Tensor | None, out: Tensor | None,
    ) -> None:  # fmt: skip
        workspace = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=c.device)
        tensors = (a, b, c, bias, scale_1, scale_2, walk_a, out, workspace)
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        stream = torch._C._cuda_getCurrentRawStream(self.device)
        for launch in self.launches:
            launch(stream, *addresses)


def _lists(spec: Spec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where each mask's counts, lists and order lie, the lists' length, and the block along them."""
    walk: tuple[int, ...] = (0, 0, 0, 0, 0)
    out = walk
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

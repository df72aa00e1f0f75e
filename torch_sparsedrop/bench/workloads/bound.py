"""What whole tiles allow: kept ones rarely come out even over multiprocessors, and long lists outlast short ones."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from torch import Tensor

from ..settings import Shape
from .operands import Masks

TILE = 128, 256
"""Of the result: what keeps a multiprocessor's tensor cores busy."""


def quantisation_bound(phase: str, shape: Shape, masks: Masks, multiprocessors: int) -> float | None:
    """Mean over greatest load where whole tiles are dealt out, longest first; None where a row's sums differ."""
    loads = [0.0] * multiprocessors
    for cost in sorted(_costs(phase, shape, masks), reverse=True):
        heapq.heapreplace(loads, loads[0] + cost)
    return sum(loads) / multiprocessors / max(loads) if any(loads) else None


def _costs(phase: str, shape: Shape, masks: Masks) -> Iterable[float]:
    """Of each tile: kept terms of its sums, times its share of a tile's width."""
    m, n, k = shape
    if phase == "dw":
        if masks.drop_in is not None and masks.drop_out is not None:
            return
        mask, cols, other = (masks.drop_in, k, n) if masks.drop_in is not None else (masks.drop_out, n, k)
        assert mask is not None
        terms = _kept(mask.keep.t(), cols, mask.block[1], mask.block[0], m)
        widths = [other] * len(terms)
    else:
        walk, out, cols, sums = masks.drop_in, masks.drop_out, n, k
        if phase == "dx":
            walk, out, cols, sums = out, walk, k, n
        lines = -(-m // TILE[0])
        terms = [sums] * lines if walk is None else _kept(walk.keep, m, *walk.block, sums)
        widths = [cols] * lines if out is None else _kept(out.keep, m, *out.block, cols)
    for length, width in zip(terms, widths, strict=True):
        yield from [float(length)] * (width // TILE[1])
        if width % TILE[1]:
            yield length * (width % TILE[1]) / TILE[1]


def _kept(keep: Tensor, rows: int, block_rows: int, block_cols: int, cols: int) -> list[int]:
    """For each row of tiles, how many columns are kept."""
    counts = (keep.sum(1) * block_cols).clamp(max=cols).tolist()
    return [counts[row * TILE[0] // block_rows] for row in range(-(-rows // TILE[0]))]

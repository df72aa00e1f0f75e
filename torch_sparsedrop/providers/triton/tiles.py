"""Which tiles a problem gets: a small table, never a search at the first call."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..cuda.problem import ceil_div


class Tile(NamedTuple):
    """Sizes along a, b and t; ``group``: tiles of A that run side by side; ``parts``: of t, added up afterwards."""

    a: int
    b: int
    t: int
    warps: int
    stages: int
    group: int = 8
    parts: int = 1


class Problem(NamedTuple):
    """C[a, b] = Σ_t A[a, t] B[b, t]. A block is None where no mask divides that dimension."""

    dtype: torch.dtype
    precision: str
    capability: tuple[int, int]
    multiprocessors: int
    size_a: int
    size_b: int
    size_t: int
    block_a: int | None
    block_b: int | None
    block_t: int | None
    reduction: bool


def choose(p: Problem) -> Tile:
    wanted = _wanted(p)
    tile = wanted._replace(a=fit(wanted.a, p.block_a), b=fit(wanted.b, p.block_b), t=fit(wanted.t, p.block_t))
    if p.block_t is not None and 2 * tile.t <= wanted.t:
        # Shorter steps want more of them under way.
        tile = tile._replace(stages=tile.stages + 1)
    return tile


def fit(wanted: int, block: int | None) -> int:
    """The largest tile up to ``wanted`` that divides ``block``; where that is below 16, one that leaves a remainder."""
    if block is None:
        return wanted
    divisor = block & -block
    return min(wanted, divisor if divisor >= 16 else power_of_2(block))


def _wanted(p: Problem) -> Tile:
    hopper = p.capability[0] == 9
    if p.dtype == torch.float32 and p.precision == "ieee":
        return _split(p, Tile(64, min(64, max(16, power_of_2(p.size_b))), 16, 4, 3))
    half = 2 if p.dtype == torch.float32 else 1
    if p.size_b <= 64:
        # Bound by memory: the tile is as wide as C.
        return _split(p, Tile(64, max(16, power_of_2(p.size_b)), (128 if hopper else 64) // half, 4, 3))
    if p.size_t <= 64:
        return Tile(64, 256, max(16, min(64 // half, power_of_2(p.size_t))), 4, 2)
    if not hopper:
        return _split(p, Tile(128, 128, 32 // half, 4, 3))
    # Two blocks on a multiprocessor hide the ends of short sums; one with a wider tile reads less.
    narrow, wide = Tile(128, 128, 64 // half, 4, 3), Tile(128, 256, 64 // half, 8, 3)
    tiles = ceil_div(p.size_a, 128) * ceil_div(p.size_b, 128)
    if p.reduction and p.size_t >= 4096 and 2 * tiles < 3 * p.multiprocessors:
        return _split(p, narrow)
    if 8 * tiles < 9 * p.multiprocessors:
        return Tile(64, 128, 64 // half, 4, 4)
    if p.block_a == 64 and p.block_b is None:
        return Tile(64, 256, 64 // half, 4, 4)
    return wide if p.size_t >= 2048 and (p.block_b is None or p.block_b % 256 == 0) else narrow


def _split(p: Problem, tile: Tile) -> Tile:
    """A reduction in as many parts as fill the chip best, counting what the parts' own traffic costs."""
    if not p.reduction:
        return tile
    tiles = ceil_div(p.size_a, fit(tile.a, p.block_a)) * ceil_div(p.size_b, fit(tile.b, p.block_b))
    steps = ceil_div(p.size_t, max(tile.t, p.block_t or 0))
    slots = 2 * p.multiprocessors

    def gain(parts: int) -> float:
        blocks = tiles * parts
        rounds = max(1, ceil_div(blocks, slots))
        return blocks / (rounds * slots) / (1 + 700 * (parts - 1) / max(1, p.size_t))

    most = max(1, min(steps // 2, 64))
    return tile._replace(parts=max(range(1, most + 1), key=gain))


def power_of_2(size: int) -> int:
    """The least power of two that is not below ``size``."""
    return 1 << (size - 1).bit_length()

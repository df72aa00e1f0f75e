"""A product or reduction of matrices under masks, in the kernels' terms."""

from __future__ import annotations

from typing import NamedTuple

import torch


def ceil_div(size: int, by: int) -> int:
    return (size + by - 1) // by


class Operand(NamedTuple):
    """A matrix as the kernel sees it: A and B as (lines, t), C as (a, b)."""

    lines: int
    t: int
    stride_line: int
    stride_t: int
    aligned: bool = True

    @property
    def t_first(self) -> bool:
        """Whether rows in memory run along the lines."""
        return self.stride_t != 1 and self.stride_line == 1

    def tma(self, dtype: torch.dtype) -> bool:
        """Whether the copy engine can read this: aligned, contiguous rows that do not overlap."""
        inner, outer = (self.stride_line, self.stride_t) if self.t_first else (self.stride_t, self.stride_line)
        length = self.lines if self.t_first else self.t
        sizes = 0 < self.lines < 2**31 and 0 < self.t < 2**31
        return sizes and self.aligned and inner == 1 and outer >= length and outer * dtype.itemsize % 16 == 0

    def copied(self) -> Operand:
        """The same matrix, copied so that the copy engine and every tensor core can read it."""
        return Operand(self.lines, self.t, ceil_div(self.t, 8) * 8, 1)


class Mask(NamedTuple):
    """A mask's block and grid, (rows, columns)."""

    block: tuple[int, int]
    grid: tuple[int, int]


class Spec(NamedTuple):
    """C[a, b] = Σ_t A[a, t] B[b, t]. ``walk_a`` lies over (a, t), ``walk_b`` over (b, t), ``out`` over (a, b); but over
    (t, a) and (t, b) where t are the rows, in a reduction."""

    device: torch.device
    dtype: torch.dtype
    precision: str
    a: Operand
    b: Operand
    c: Operand
    walk_a: Mask | None
    walk_b: Mask | None
    out: Mask | None
    reduction: bool

    def blocks(self) -> tuple[int | None, int | None, int | None]:
        """The mask blocks along a, b and t."""
        a = b = t = None
        if self.walk_a is not None:
            a, t = self.sides(self.walk_a.block)
        if self.walk_b is not None:
            b, t = self.sides(self.walk_b.block)
        if self.out is not None:
            a, b = self.out.block
        return a, b, t

    def sides(self, pair: tuple[int, int]) -> tuple[int, int]:
        return (pair[1], pair[0]) if self.reduction else pair

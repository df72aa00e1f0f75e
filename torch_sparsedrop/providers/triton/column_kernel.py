"""Sums over rows, of what a mask keeps if there is one: C[a] = Σ_t A[t, a] · b[t], in parts that are then added."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from .overlap import let_next_kernel_begin, wait_for_kernels_before


@triton.jit
def is_kept(plan, row_bits, words, row, col):
    """The bit of a block."""
    return (tl.load(plan + row_bits + row * words + col // 32) >> (col % 32)) & 1


@triton.jit
def sum_rows(
    a, b, parts, plan, rows, cols, a_row, b_row, row_bits, words, tiles, each,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Some tiles of R × C below each other, ``each`` of ``tiles``; a tile lies inside a mask's block. No ``b`` is a
    column of ones, no ``plan`` keeps all."""
    wait_for_kernels_before()
    let_next_kernel_begin()
    SUB_R: tl.constexpr = (BLOCK_R + R - 1) // R
    SUB_C: tl.constexpr = (BLOCK_C + C - 1) // C
    block_c = tl.program_id(0) // SUB_C
    col = block_c * BLOCK_C + tl.program_id(0) % SUB_C * C + tl.arange(0, C)
    col_end = tl.minimum(cols, (block_c + 1) * BLOCK_C)
    total = tl.zeros((R, C), tl.float32)
    first = tl.program_id(1) * each
    # What is dropped is left out by its loads, not by a branch, so that those of several tiles are under way at once.
    for tile in tl.range(first, tl.minimum(first + each, tiles), loop_unroll_factor=4):
        block_r = tile // SUB_R
        row = block_r * BLOCK_R + tile % SUB_R * R + tl.arange(0, R)
        end = tl.minimum(rows, (block_r + 1) * BLOCK_R)
        if plan is not None:
            end = tl.where(is_kept(plan, row_bits, words, block_r, block_c) != 0, end, 0)
        inside = row < end
        at = row.to(tl.int64)[:, None] * a_row + col[None, :]
        found = tl.load(a + at, inside[:, None] & (col < col_end)[None, :], other=0.0).to(tl.float32)
        if b is not None:
            found *= tl.load(b + row.to(tl.int64) * b_row, inside, other=0.0).to(tl.float32)[:, None]
        total += found
    tl.store(parts + tl.program_id(1).to(tl.int64) * cols + col, tl.sum(total, 0), col < col_end)


@triton.jit
def add_rows(parts, total, scale_1, scale_2, count, cols, PARTS: tl.constexpr, C: tl.constexpr):
    """The sum of the parts, (count, cols), always in one order, and scaled."""
    wait_for_kernels_before()
    let_next_kernel_begin()
    part = tl.arange(0, PARTS)[:, None]
    col = tl.program_id(0) * C + tl.arange(0, C)
    found = tl.load(parts + part * cols + col[None, :], (part < count) & (col < cols)[None, :], other=0.0)
    result = tl.sum(found, 0)
    if scale_1 is not None:
        result = result * tl.load(scale_1)
    if scale_2 is not None:
        result = result * tl.load(scale_2)
    tl.store(total + col, result.to(total.dtype.element_ty), col < cols)

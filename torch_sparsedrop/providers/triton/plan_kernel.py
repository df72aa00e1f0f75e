"""The kernel that makes a plan in one launch: no part of it waits for another program.

A program makes the lists of some rows or columns, or puts some of them in order. What the order needs from all the
others, their counts, each such program counts itself: that costs less than a second launch.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from .overlap import let_next_kernel_begin, wait_for_kernels_before


@triton.jit
def balanced_count(source, p, row, rows, cols, stride_row, stride_col):
    """How many blocks each row keeps: ⌊k⌋, or one more where the last column's number says so."""
    k = (1 - p.to(tl.float64)) * cols
    # p is a float32, so that k may miss a whole number by its rounding.
    whole = tl.floor(k + 0.5)
    k = tl.where(tl.abs(k - whole) <= cols * 2.0**-22, whole, k)
    extra = tl.load(source + row * stride_row + cols * stride_col, row < rows, other=1.0)
    return tl.floor(k).to(tl.int32) + (extra < (k - tl.floor(k)).to(tl.float32)).to(tl.int32)


@triton.jit
def kept_tile(
    source, p, line, place, rows, cols, stride_row, stride_col, BY_COL: tl.constexpr, MODE: tl.constexpr
):  # fmt: skip
    """Which of ``place`` are kept in each ``line``, (lines, places); lines are rows, or columns ``BY_COL``."""
    if BY_COL:
        row, col = place[None, :], line[:, None]
    else:
        row, col = line[:, None], place[None, :]
    inside = (row < rows) & (col < cols)
    value = tl.load(source + row * stride_row + col * stride_col, inside, other=0)
    if MODE == "given":
        keep = value != 0
    elif MODE == "bernoulli":
        keep = value >= p
    else:
        smaller = tl.zeros_like(inside.to(tl.int32))
        for other in tl.range(0, cols, loop_unroll_factor=8):
            number = tl.load(source + row * stride_row + other * stride_col, row < rows, other=0.0)
            smaller += ((number < value) | ((number == value) & (other < col))).to(tl.int32)
        keep = smaller < balanced_count(source, p, row, rows, cols, stride_row, stride_col)
    return (keep & inside).to(tl.int32)


@triton.jit
def count_kept(
    source, p, line, rows, cols, stride_row, stride_col,
    BY_COL: tl.constexpr, MODE: tl.constexpr, LINES: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    if MODE == "balanced" and not BY_COL:
        count = balanced_count(source, p, line, rows, cols, stride_row, stride_col)
    else:
        count = tl.zeros((LINES,), tl.int32)
        for first in tl.range(0, rows if BY_COL else cols, PLACES):
            place = first + tl.arange(0, PLACES)
            count += tl.sum(kept_tile(source, p, line, place, rows, cols, stride_row, stride_col, BY_COL, MODE), 1)
    return count


@triton.jit
def make_lists(
    source, p, keep, plan, line, rows, cols, stride_row, stride_col, bits_at, count_at, index_at,
    BY_COL: tl.constexpr, MODE: tl.constexpr, LINES: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Bitmaps, counts and index lists of ``line``, and the rows' own ``keep``."""
    length = rows if BY_COL else cols
    real = (line < (cols if BY_COL else rows))[:, None]
    count = tl.zeros((LINES,), tl.int32)
    words = (length + 63) // 64 * 2
    for first in tl.range(0, words * 32, PLACES):
        place = first + tl.arange(0, PLACES)
        kept = kept_tile(source, p, line, place, rows, cols, stride_row, stride_col, BY_COL, MODE)
        count += tl.sum(kept, 1)
        word = tl.sum(tl.reshape(kept << (place % 32)[None, :], (LINES, PLACES // 32, 32)), 2)
        at = first // 32 + tl.arange(0, PLACES // 32)
        tl.store(plan + bits_at + line[:, None] * words + at[None, :], word, real & (at < words)[None, :])
        if not BY_COL and MODE != "given":
            tl.store(keep + line[:, None] * cols + place[None, :], kept != 0, real & (place < length)[None, :])
    tl.store(plan + count_at + line[:, None], count[:, None], real)

    before = tl.zeros((LINES,), tl.int32)
    for first in tl.range(0, length, PLACES):
        place = first + tl.arange(0, PLACES)
        kept = kept_tile(source, p, line, place, rows, cols, stride_row, stride_col, BY_COL, MODE)
        earlier = before[:, None] + tl.cumsum(kept, 1) - kept
        rank = tl.where(kept != 0, earlier, count[:, None] + place[None, :] - earlier)
        at = plan + index_at + line[:, None] * length + rank
        tl.store(at, place[None, :] + tl.zeros_like(kept), real & (place < length)[None, :])
        before += tl.sum(kept, 1)


@triton.jit
def make_order(
    source, p, plan, line, rows, cols, stride_row, stride_col, order_at,
    BY_COL: tl.constexpr, MODE: tl.constexpr, LINES: tl.constexpr, OTHERS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """The places of ``line`` in the order of counts, most first, equal ones as they come."""
    lines = cols if BY_COL else rows
    mine = count_kept(source, p, line, rows, cols, stride_row, stride_col, BY_COL, MODE, LINES, PLACES)
    position = tl.zeros((LINES,), tl.int32)
    for first in tl.range(0, lines, OTHERS):
        other = first + tl.arange(0, OTHERS)
        count = count_kept(source, p, other, rows, cols, stride_row, stride_col, BY_COL, MODE, OTHERS, PLACES)
        equal_before = (count[None, :] == mine[:, None]) & (other[None, :] < line[:, None])
        ahead = (other < lines)[None, :] & ((count[None, :] > mine[:, None]) | equal_before)
        position += tl.sum(ahead.to(tl.int32), 1)
    tl.store(plan + order_at + position, line, line < lines)


@triton.jit(do_not_specialize=["row_bits", "col_bits", "row_count", "col_count", "row_order", "col_order"])
def make_plan(
    source, p, keep, plan, scale,
    rows, cols, stride_row, stride_col,
    row_bits, col_bits, row_count, col_count, row_order, col_order, row_index, col_index, size,
    MODE: tl.constexpr, NUMBER: tl.constexpr, LINES: tl.constexpr,
    ROW_OTHERS: tl.constexpr, ROW_PLACES: tl.constexpr, COL_OTHERS: tl.constexpr, COL_PLACES: tl.constexpr,
):  # fmt: skip
    wait_for_kernels_before()
    let_next_kernel_begin()
    if MODE != "given":
        if not NUMBER:  # but in memory
            p = tl.load(p)
        p = tl.minimum(tl.maximum(p, 0.0, tl.PropagateNan.ALL), 1.0, tl.PropagateNan.ALL)
        if tl.program_id(0) + tl.program_id(1) == 0:
            left = 1 - p.to(tl.float64)
            tl.store(scale, tl.where(p < 1, 1 / left, 0.0).to(tl.float32))
    # Several masks lie below each other, and their plans behind each other.
    mask = tl.program_id(1).to(tl.int64)
    source += mask * rows * stride_row
    plan += mask * size
    if MODE != "given":
        keep += mask * rows * cols
    if tl.program_id(0) == 0:
        end = col_index + rows * cols + tl.arange(0, 4)
        tl.store(plan + end, tl.zeros_like(end), end < size)
    # Lists and orders side by side.
    pid = tl.program_id(0) // 2
    order = tl.program_id(0) % 2 == 0
    row_programs = (rows + LINES - 1) // LINES
    if pid < row_programs:
        line = pid * LINES + tl.arange(0, LINES)
        if order:
            make_order(
                source, p, plan, line, rows, cols, stride_row, stride_col, row_order,
                False, MODE, LINES, ROW_OTHERS, ROW_PLACES,
            )  # fmt: skip
        else:
            make_lists(
                source, p, keep, plan, line, rows, cols, stride_row, stride_col, row_bits, row_count, row_index,
                False, MODE, LINES, ROW_PLACES,
            )  # fmt: skip
    else:
        line = (pid - row_programs) * LINES + tl.arange(0, LINES)
        if order:
            make_order(
                source, p, plan, line, rows, cols, stride_row, stride_col, col_order,
                True, MODE, LINES, COL_OTHERS, COL_PLACES,
            )  # fmt: skip
        else:
            make_lists(
                source, p, keep, plan, line, rows, cols, stride_row, stride_col, col_bits, col_count, col_index,
                True, MODE, LINES, COL_PLACES,
            )  # fmt: skip

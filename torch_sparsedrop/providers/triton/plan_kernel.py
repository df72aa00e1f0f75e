"""The kernel that makes a plan in one launch: no part of it waits for another program.

A program makes the rows, or the columns, of some lines. What it needs from the other lines, their counts, it counts
itself: the grid is small, and a second launch would cost more.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sort_key(number, col):
    """Numbers of [0, 1) in their order, equal ones by column: 30 bits and 10."""
    return (number.to(tl.int32, bitcast=True).to(tl.int64) << 10) | col


@triton.jit
def threshold(source, p, row, rows, cols, stride_row, stride_col, WIDTH: tl.constexpr):
    """Balanced: the key below which as many lie as each row keeps, found bit by bit."""
    col = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (col < cols)[None, :]
    number = tl.load(source + row[:, None] * stride_row + col[None, :] * stride_col, inside, other=1.0)
    keys = sort_key(number, col[None, :])
    k = (1 - p.to(tl.float64)) * cols
    # p is a float32, so that k may miss a whole number by its rounding.
    whole = tl.floor(k + 0.5)
    k = tl.where(tl.abs(k - whole) <= cols * 2.0**-22, whole, k)
    extra = tl.load(source + row * stride_row + cols * stride_col, row < rows, other=1.0)
    kept = tl.floor(k).to(tl.int32) + (extra < (k - tl.floor(k)).to(tl.float32)).to(tl.int32)
    least = tl.zeros_like(row).to(tl.int64)
    bit = tl.full((), 1 << 39, tl.int64)
    for _ in tl.range(0, 40):
        below = tl.sum(((keys < (least + bit)[:, None]) & inside).to(tl.int32), 1)
        least = tl.where(below <= kept, least + bit, least)
        bit = bit >> 1
    return least


@triton.jit
def kept_tile(
    source, p, line, place, rows, cols, stride_row, stride_col,
    BY_COL: tl.constexpr, MODE: tl.constexpr, WIDTH: tl.constexpr,
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
        if BY_COL:
            first_dropped = threshold(source, p, place, rows, cols, stride_row, stride_col, WIDTH)[None, :]
        else:
            first_dropped = threshold(source, p, line, rows, cols, stride_row, stride_col, WIDTH)[:, None]
        keep = sort_key(value, col) < first_dropped
    return (keep & inside).to(tl.int32)


@triton.jit
def make_lines(
    source, p, keep, plan, program, rows, cols, stride_row, stride_col, bits_at, count_at, order_at, index_at,
    BY_COL: tl.constexpr, MODE: tl.constexpr, WIDTH: tl.constexpr,
    LINES: tl.constexpr, OTHERS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    lines = cols if BY_COL else rows
    length = rows if BY_COL else cols
    line = program * LINES + tl.arange(0, LINES)
    line_inside = line < lines

    count = tl.zeros((LINES,), tl.int32)
    words = (length + 63) // 64 * 2
    for start_at in tl.range(0, words * 32, PLACES):
        place = start_at + tl.arange(0, PLACES)
        kept = kept_tile(source, p, line, place, rows, cols, stride_row, stride_col, BY_COL, MODE, WIDTH)
        count += tl.sum(kept, 1)
        word = tl.sum(tl.reshape(kept << (place % 32)[None, :], (LINES, PLACES // 32, 32)), 2)
        at = start_at // 32 + tl.arange(0, PLACES // 32)
        tl.store(
            plan + bits_at + line[:, None] * words + at[None, :], word, line_inside[:, None] & (at < words)[None, :]
        )
        if not BY_COL and MODE != "given":
            inside = line_inside[:, None] & (place < length)[None, :]
            tl.store(keep + line[:, None] * cols + place[None, :], kept != 0, inside)
    tl.store(plan + count_at + line, count, line_inside)

    before = tl.zeros((LINES,), tl.int32)
    for start_at in tl.range(0, length, PLACES):
        place = start_at + tl.arange(0, PLACES)
        kept = kept_tile(source, p, line, place, rows, cols, stride_row, stride_col, BY_COL, MODE, WIDTH)
        earlier = before[:, None] + tl.cumsum(kept, 1) - kept
        rank = tl.where(kept != 0, earlier, count[:, None] + place[None, :] - earlier)
        inside = line_inside[:, None] & (place < length)[None, :]
        tl.store(plan + index_at + line[:, None] * length + rank, place[None, :] + tl.zeros_like(kept), inside)
        before += tl.sum(kept, 1)

    position = tl.zeros((LINES,), tl.int32)
    for other_at in tl.range(0, lines, OTHERS):
        other = other_at + tl.arange(0, OTHERS)
        counts = tl.zeros((OTHERS,), tl.int32)
        for start_at in tl.range(0, length, PLACES):
            place = start_at + tl.arange(0, PLACES)
            kept = kept_tile(source, p, other, place, rows, cols, stride_row, stride_col, BY_COL, MODE, WIDTH)
            counts += tl.sum(kept, 1)
        equal_before = (counts[None, :] == count[:, None]) & (other[None, :] < line[:, None])
        ahead = (other < lines)[None, :] & ((counts[None, :] > count[:, None]) | equal_before)
        position += tl.sum(ahead.to(tl.int32), 1)
    tl.store(plan + order_at + position, line, line_inside)


@triton.jit(do_not_specialize=["row_bits", "col_bits", "row_count", "col_count", "row_order", "col_order"])
def make_plan(
    source, p, keep, plan, scale,
    rows, cols, stride_row, stride_col,
    row_bits, col_bits, row_count, col_count, row_order, col_order, row_index, col_index,
    MODE: tl.constexpr, WIDTH: tl.constexpr, LINES: tl.constexpr,
    ROW_OTHERS: tl.constexpr, ROW_PLACES: tl.constexpr, COL_OTHERS: tl.constexpr, COL_PLACES: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    if MODE != "given":
        p = tl.load(p)
        p = tl.minimum(tl.maximum(p, 0.0, tl.PropagateNan.ALL), 1.0, tl.PropagateNan.ALL)
        if pid == 0:
            left = 1 - p.to(tl.float64)
            tl.store(scale, tl.where(p < 1, 1 / left, 0.0).to(tl.float32))
    row_programs = (rows + LINES - 1) // LINES
    if pid < row_programs:
        make_lines(
            source, p, keep, plan, pid, rows, cols, stride_row, stride_col,
            row_bits, row_count, row_order, row_index, False, MODE, WIDTH, LINES, ROW_OTHERS, ROW_PLACES,
        )  # fmt: skip
    else:
        make_lines(
            source, p, keep, plan, pid - row_programs, rows, cols, stride_row, stride_col,
            col_bits, col_count, col_order, col_index, True, MODE, WIDTH, LINES, COL_OTHERS, COL_PLACES,
        )  # fmt: skip

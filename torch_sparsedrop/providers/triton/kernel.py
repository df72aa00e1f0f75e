"""One kernel for both ops: C[a, b] = Σ_t A[a, t] · B[b, t] over the blocks of t that the masks keep.

The masked product has a = rows, b = outputs, t = inputs; the masked reduction has t = rows. A mask over (a, t) or
(b, t) shortens the sum ("walk"); a mask over (a, b) says which blocks of C exist ("out"), the others are written as +0.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from .overlap import wait_for_kernels_before
from .walk import limit_word, load_word, lowest, popcount


@triton.jit
def load_tile(
    source, line, t, line_end, t_end, stride_line, stride_t,
    LINES: tl.constexpr, T: tl.constexpr, T_FIRST: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """An operand's tile as (lines, t). In memory t varies fastest, or with ``T_FIRST`` the lines do."""
    if TMA:
        tile = source.load([t, line] if T_FIRST else [line, t])
    else:
        lines = line + tl.arange(0, LINES)
        ts = t + tl.arange(0, T)
        if T_FIRST:
            at = ts.to(tl.int64)[:, None] * stride_t + lines.to(tl.int64)[None, :] * stride_line
            tile = tl.load(source + at, (ts < t_end)[:, None] & (lines < line_end)[None, :], other=0.0)
        else:
            at = lines.to(tl.int64)[:, None] * stride_line + ts.to(tl.int64)[None, :] * stride_t
            tile = tl.load(source + at, (lines < line_end)[:, None] & (ts < t_end)[None, :], other=0.0)
    return tl.trans(tile) if T_FIRST else tile


@triton.jit
def store_tile(
    target, tile, a, b, a_end, b_end, stride_a, stride_b,
    A: tl.constexpr, B: tl.constexpr, A_FIRST: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    if TMA:
        if A_FIRST:
            target.store([b, a], tl.trans(tile))
        else:
            target.store([a, b], tile)
    else:
        rows = a + tl.arange(0, A)
        cols = b + tl.arange(0, B)
        at = rows.to(tl.int64)[:, None] * stride_a + cols.to(tl.int64)[None, :] * stride_b
        tl.store(target + at, tile, (rows < a_end)[:, None] & (cols < b_end)[None, :])


@triton.jit
def accumulate(
    total, a, b, line_a, line_b, t, a_end, b_end, t_end, a_line, a_t, b_line, b_t,
    TILE_A: tl.constexpr, TILE_B: tl.constexpr, TILE_T: tl.constexpr,
    A_T_FIRST: tl.constexpr, B_T_FIRST: tl.constexpr, A_TMA: tl.constexpr, B_TMA: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    left = load_tile(a, line_a, t, a_end, t_end, a_line, a_t, TILE_A, TILE_T, A_T_FIRST, A_TMA)
    right = load_tile(b, line_b, t, b_end, t_end, b_line, b_t, TILE_B, TILE_T, B_T_FIRST, B_TMA)
    return tl.dot(left, tl.trans(right), total, input_precision=PRECISION)


_OFFSETS = [
    "walk_a_bits", "walk_b_bits", "words", "order_at", "out_count", "out_index", "out_cols", "tiles_a", "tiles_b",
    "blocks_t",
]  # fmt: skip


@triton.jit(do_not_specialize=_OFFSETS)
def matmul(
    a, b, c, bias, scale_1, scale_2, walk_a, walk_b, order, out,
    size_a, size_b, size_t, a_line, a_t, b_line, b_t, c_a, c_b,
    walk_a_bits, walk_b_bits, words, order_at, out_count, out_index, out_cols, tiles_a, tiles_b, blocks_t,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_T: tl.constexpr,
    TILE_A: tl.constexpr, TILE_B: tl.constexpr, TILE_T: tl.constexpr, GROUP: tl.constexpr,
    A_T_FIRST: tl.constexpr, B_T_FIRST: tl.constexpr, C_A_FIRST: tl.constexpr,
    A_TMA: tl.constexpr, B_TMA: tl.constexpr, C_TMA: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    wait_for_kernels_before()
    SUB_A: tl.constexpr = (BLOCK_A + TILE_A - 1) // TILE_A
    SUB_B: tl.constexpr = (BLOCK_B + TILE_B - 1) // TILE_B
    STEPS: tl.constexpr = (BLOCK_T + TILE_T - 1) // TILE_T
    # Neighbouring programs share rows of A and of B: a column of ``GROUP`` tiles, then the next column.
    pid = tl.program_id(0)
    group = pid // (GROUP * tiles_b)
    height = tl.minimum(tiles_a - group * GROUP, GROUP)
    rank = group * GROUP + pid % (GROUP * tiles_b) % height
    tile_b = pid % (GROUP * tiles_b) // height

    # Blocks with the most work start first.
    block_a = rank // SUB_A
    if order is not None:
        block_a = tl.load(order + order_at + block_a)
    line_a = block_a * BLOCK_A + rank % SUB_A * TILE_A
    a_end = size_a if BLOCK_A % TILE_A == 0 else tl.minimum(size_a, (block_a + 1) * BLOCK_A)

    # The kept blocks of a row of C come first in the plan's list, the dropped ones behind them.
    block_b = tile_b // SUB_B
    exists = True
    if out is not None:
        exists = block_b < tl.load(out + out_count + block_a)
        block_b = tl.load(out + out_index + block_a.to(tl.int64) * out_cols + block_b)
    line_b = block_b * BLOCK_B + tile_b % SUB_B * TILE_B
    b_end = size_b if BLOCK_B % TILE_B == 0 else tl.minimum(size_b, (block_b + 1) * BLOCK_B)

    first = 0
    last = blocks_t
    if SPLIT:
        part = tl.program_id(1).to(tl.int64)
        first = (part * blocks_t // tl.num_programs(1)).to(tl.int32)
        last = ((part + 1) * blocks_t // tl.num_programs(1)).to(tl.int32)
        c += part * size_a * size_b

    total = tl.zeros((TILE_A, TILE_B), tl.float32)
    if exists:
        if walk_a is None:
            for s in tl.range(first * STEPS, last * STEPS):
                total = accumulate(
                    total, a, b, line_a, line_b, s * TILE_T, a_end, b_end, size_t, a_line, a_t, b_line, b_t,
                    TILE_A, TILE_B, TILE_T, A_T_FIRST, B_T_FIRST, A_TMA, B_TMA, PRECISION,
                )  # fmt: skip
        else:
            for w in tl.range(first // 64, (last + 63) // 64, num_stages=1):
                word = load_word(walk_a, walk_a_bits, block_a, words, w)
                if walk_b is not None:
                    word = word & load_word(walk_b, walk_b_bits, block_b, words, w)
                if SPLIT:
                    word = limit_word(word, w, first, last)
                for s in tl.range(0, popcount(word) * STEPS):
                    block = w * 64 + lowest(word)
                    t = block * BLOCK_T + s % STEPS * TILE_T
                    t_end = size_t if BLOCK_T % TILE_T == 0 else tl.minimum(size_t, (block + 1) * BLOCK_T)
                    total = accumulate(
                        total, a, b, line_a, line_b, t, a_end, b_end, t_end, a_line, a_t, b_line, b_t,
                        TILE_A, TILE_B, TILE_T, A_T_FIRST, B_T_FIRST, A_TMA, B_TMA, PRECISION,
                    )  # fmt: skip
                    word = tl.where(s % STEPS == STEPS - 1, word & (word - 1), word)
        if not SPLIT:
            if scale_1 is not None:
                total = total * tl.load(scale_1)
            if bias is not None:
                cols = line_b + tl.arange(0, TILE_B)
                total = total + tl.load(bias + cols, cols < b_end, other=0.0).to(tl.float32)[None, :]
            if scale_2 is not None:
                total = total * tl.load(scale_2)
    tile = total.to(c.dtype if C_TMA else c.dtype.element_ty)
    store_tile(c, tile, line_a, line_b, a_end, b_end, c_a, c_b, TILE_A, TILE_B, C_A_FIRST, C_TMA)


@triton.jit
def add_parts(parts, c, scale_1, scale_2, size, count, SIZE: tl.constexpr):
    """C = the parts' sum, in their order, scaled."""
    wait_for_kernels_before()
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    source = parts + at
    for _ in tl.range(0, count):
        total += tl.load(source, at < size, other=0.0)
        source += size
    if scale_1 is not None:
        total = total * tl.load(scale_1)
    if scale_2 is not None:
        total = total * tl.load(scale_2)
    tl.store(c + at, total.to(c.dtype.element_ty), at < size)

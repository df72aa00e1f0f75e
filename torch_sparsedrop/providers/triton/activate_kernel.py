"""M ⊙ f(x + b) and its derivative: dropped blocks are neither read nor computed, only written as zeros."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from .column_kernel import is_kept
from .overlap import wait_for_kernels_before


@triton.jit
def value(x, FUNCTION: tl.constexpr):
    if FUNCTION == "relu":
        y = tl.where(x <= 0, 0.0, x)
    elif FUNCTION == "gelu":
        y = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif FUNCTION == "gelu_tanh":
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    else:
        y = x * tl.sigmoid(x)
    return y


@triton.jit
def gradient(grad, x, FUNCTION: tl.constexpr):
    if FUNCTION == "relu":
        dx = tl.where(x <= 0, 0.0, grad)
    elif FUNCTION == "gelu":
        half = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        dx = grad * (half + x * 0.3989422804014327 * tl.exp(-0.5 * x * x))
    elif FUNCTION == "gelu_tanh":
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        dx = grad * (s + x * s * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * x * x))
    else:
        s = tl.sigmoid(x)
        dx = grad * (s + x * s * (1 - s))
    return dx


@triton.jit
def activate(
    x, grad, y, bias, parts, plan, rows, cols, row_bits, words, tiles, across, each,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, R: tl.constexpr, C: tl.constexpr, FUNCTION: tl.constexpr,
):  # fmt: skip
    """Some tiles of R × C below each other, ``each`` of ``tiles``; a tile lies inside a mask's block. With ``grad`` its
    product with the derivative, and with ``parts`` the sum of that over the rows."""
    wait_for_kernels_before()
    SUB_R: tl.constexpr = (BLOCK_R + R - 1) // R
    SUB_C: tl.constexpr = (BLOCK_C + C - 1) // C
    part, place = tl.program_id(0) // across, tl.program_id(0) % across
    block_c = place // SUB_C
    col = block_c * BLOCK_C + place % SUB_C * C + tl.arange(0, C)
    col_end = tl.minimum(cols, (block_c + 1) * BLOCK_C)
    if bias is not None:
        added = tl.load(bias + col, col < col_end, other=0.0).to(tl.float32)[None, :]
    if parts is not None:
        total = tl.zeros((R, C), tl.float32)
    for tile in tl.range(part * each, tl.minimum((part + 1) * each, tiles)):
        block_r = tile // SUB_R
        row = block_r * BLOCK_R + tile % SUB_R * R + tl.arange(0, R)
        inside = (row < tl.minimum(rows, (block_r + 1) * BLOCK_R))[:, None] & (col < col_end)[None, :]
        at = row.to(tl.int64)[:, None] * cols + col[None, :]
        result = tl.zeros((R, C), tl.float32)
        if is_kept(plan, row_bits, words, block_r, block_c) != 0:
            z = tl.load(x + at, inside, other=0.0).to(tl.float32)
            if bias is not None:
                z += added
            if grad is None:
                result = value(z, FUNCTION)
            else:
                result = gradient(tl.load(grad + at, inside, other=0.0).to(tl.float32), z, FUNCTION)
        tl.store(y + at, result.to(y.dtype.element_ty), inside)
        if parts is not None:
            total += result
    if parts is not None:
        tl.store(parts + part.to(tl.int64) * cols + col, tl.sum(total, 0), col < col_end)

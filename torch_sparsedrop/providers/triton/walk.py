"""Walking the kept blocks of a plan's bitmap in registers: no memory is read on the way from one block to the next."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_word(plan, offset, line, words, w):
    """The 64 bits of ``line`` that cover blocks 64·w to 64·w + 63."""
    # Two loads: a plan may lie at an address that is no multiple of eight.
    at = plan + offset + (line * words + w).to(tl.int64) * 2
    low = tl.load(at).to(tl.uint32, bitcast=True).to(tl.int64)
    high = tl.load(at + 1).to(tl.int64)
    return (high << 32) | low


@triton.jit
def limit_word(word, w, first, last):
    """``word`` without the blocks before ``first`` and from ``last`` on."""
    ones = tl.full((), -1, tl.int64)
    below = tl.minimum(tl.maximum(first - w * 64, 0), 63).to(tl.int64)
    above = tl.minimum(last - w * 64, 63).to(tl.int64)
    word = word & (ones << below)
    return tl.where(last - w * 64 < 64, word & ((ones << above) ^ -1), word)


@triton.jit
def popcount(word):
    word = word.to(tl.uint64, bitcast=True)
    word = word - ((word >> 1) & 0x5555555555555555)
    word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((word * 0x0101010101010101) >> 56).to(tl.int32)


@triton.jit
def lowest(word):
    """The position of the lowest bit that is set: the exponent of that bit as a float."""
    bit = (word & -word).to(tl.uint64, bitcast=True).to(tl.float32)
    return (bit.to(tl.int32, bitcast=True) >> 23) - 127

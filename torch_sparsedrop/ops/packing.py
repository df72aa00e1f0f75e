"""Keep grids and packed plans in plain PyTorch, on any device and without reading a value on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import flat_size, grid_of
from .layout import layout


def pack(keep: Tensor) -> Tensor:
    """The plan of a bool ``keep`` grid (rows, cols)."""
    rows, cols = keep.shape
    parts = {}
    for side, grid in (("row", keep), ("col", keep.t())):
        count = grid.sum(1, dtype=torch.int32)
        parts[f"{side}_bits"] = _bits(grid)
        parts[f"{side}_count"] = count
        parts[f"{side}_order"] = count.argsort(descending=True, stable=True)
        parts[f"{side}_index"] = (~grid).to(torch.uint8).argsort(dim=1, stable=True)
    at = layout(rows, cols)
    sections = [parts[name].reshape(-1).to(torch.int32) for name in at._fields[:-1]]
    return torch.cat([*sections, sections[0].new_zeros(at.size - sum(map(len, sections)))])


def unpack(plan: Tensor, rows: int, cols: int) -> Tensor:
    """The bool keep grid (rows, cols) that a plan was made from."""
    at, words = layout(rows, cols), _words(cols)
    packed = plan[at.row_bits : at.col_bits].reshape(rows, words, 1)
    bits = (packed >> torch.arange(32, device=plan.device, dtype=torch.int32)) & 1
    return bits.reshape(rows, words * 32)[:, :cols].bool()


def flat(grid: Tensor) -> Tensor:
    """A grid as compiled graphs hold it: see `flat_size`."""
    missing = flat_size(*grid.shape) - grid.numel()
    values = grid.reshape(-1)
    return torch.cat([values, values.new_zeros(missing)]) if missing else values


def matrix(grid: Tensor, rows: int, cols: int) -> Tensor:
    """A flat grid as a matrix again; a matrix as it is."""
    return grid if grid.dim() == 2 else grid[: rows * cols].view(rows, cols)


def _bits(grid: Tensor) -> Tensor:
    rows, cols = grid.shape
    words = _words(cols)
    padded = grid.new_zeros(rows, words * 32)
    padded[:, :cols] = grid
    values = padded.reshape(rows, words, 32).long() << torch.arange(32, device=grid.device)
    unsigned = values.sum(2)
    return torch.where(unsigned >= 2**31, unsigned - 2**32, unsigned).to(torch.int32)


def _words(bits: int) -> int:
    """int32 words of a bitmap, which is read in words of 64 bits."""
    return 2 * ((bits + 63) // 64)


def block_sizes(size: int, block: int, device: torch.device) -> Tensor:
    """Elements in each block that covers ``size``: all ``block`` but the last, which may be short."""
    starts = torch.arange(0, size, block, device=device)
    return (size - starts).clamp(max=block)


def spread(keep: Tensor, rows: int, cols: int, block: tuple[int, int]) -> Tensor:
    """A keep grid, flat or not, as a bool mask over ``rows`` × ``cols`` elements."""
    row, col = (block_of(size, length, keep.device) for size, length in zip((rows, cols), block, strict=True))
    return keep.reshape(-1)[row[:, None] * grid_of(rows, cols, block)[1] + col]


def block_of(size: int, block: int, device: torch.device) -> Tensor:
    """For each of ``size`` places the block it lies in: place // block.

    Without the remainder, Inductor of PyTorch 2.13 would split a loop on CPUs in whole blocks and never write the
    short last one.
    """
    place = torch.arange(size, device=device)
    return (place - place % block) // block


def draw(uniform: Tensor, p: Tensor, balanced: bool, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """keep, plan and scale from uniform random numbers: of ``count`` masks below each other, plans behind each other.

    Bernoulli: a block is kept where its number is at least p. Balanced: the blocks with the smallest
    numbers of their row are kept, ⌊k⌋ of them or one more, k = (1 - p)·cols; the last column decides.
    """
    p = p.double().nan_to_num(0).clamp(0, 1)
    if balanced:
        numbers, extra = uniform[:, :-1], uniform[:, -1:]
        cols = numbers.shape[1]
        k = (1 - p) * cols
        # p is a float32, so that k may miss a whole number by its rounding.
        k = torch.where((k - k.round()).abs() <= cols * 2.0**-22, k.round(), k)
        kept = k.floor() + (extra < k - k.floor())
        keep = numbers.argsort(dim=1, stable=True).argsort(dim=1) < kept
    else:
        keep = uniform >= p.float()
    scale = torch.where(p < 1, 1 / (1 - p), 0).float()
    plans = [pack(grid) for grid in keep.tensor_split(count)] if count else [keep.new_empty(0, dtype=torch.int32)]
    return keep, torch.cat(plans), scale

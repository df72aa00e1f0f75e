"""Block masks: which blocks of a matrix are kept, and what the kept ones are multiplied by."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .ops import packing
from .ops.checks import check_block, flat_size, grid_of

Block = int | tuple[int, int]
Kind = Literal["bernoulli", "balanced"]
Probability = float | Tensor

KINDS = ("bernoulli", "balanced")


class BlockMask:
    """A mask over ``shape`` elements in blocks of ``block``; the last block of a direction may be short.

    Attributes:
        keep: bool grid (⌈rows/bm⌉, ⌈cols/bn⌉), True where a block is kept. Read only: the plan would not follow.
        shape: (rows, cols) of the masked matrix.
        block: (bm, bn).
        scale: 0-dim float32 tensor that kept elements are multiplied by.
        plan: the grid in the packed form that kernels walk (opaque).
    """

    __slots__ = ("_flat", "block", "plan", "scale", "shape")

    def __init__(
        self, flat: Tensor, plan: Tensor, scale: Tensor, shape: tuple[int, int], block: tuple[int, int]
    ) -> None:
        self._flat = flat
        self.plan = plan
        self.scale = scale
        self.shape = shape
        self.block = block

    @staticmethod
    def draw(
        rows: int,
        cols: int,
        p: Probability,
        *,
        block: Block = (128, 128),
        kind: Kind = "bernoulli",
        device: torch.device | str | None = None,
    ) -> BlockMask:
        """A random mask that drops each block with probability ``p`` and scales the rest by 1/(1 - p).

        ``kind="bernoulli"`` drops blocks independently. ``"balanced"`` keeps ⌊(1-p)·B⌋ of a row's B blocks, or one
        more, so that rows do nearly equal work. ``p`` is a float in [0, 1], or a 0-dim tensor, which the host never
        reads (it is clamped).
        """
        rows, cols = check_shape(rows, cols)
        sizes = check_block(block)
        check_kind(kind)
        check_p(p)
        if isinstance(p, Tensor):
            device = p.device if device is None else device
        grid = grid_of(rows, cols, sizes)
        uniform = random_numbers(grid, kind == "balanced", device)
        return draw(uniform, p, kind == "balanced", (rows, cols), grid, sizes)

    @staticmethod
    def from_keep(keep: Tensor, rows: int, cols: int, *, block: Block, scale: float | Tensor = 1.0) -> BlockMask:
        """The mask of a given bool grid, for ``rows`` × ``cols`` elements."""
        shape = check_shape(rows, cols)
        sizes = check_block(block)
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            got = keep.dtype if isinstance(keep, Tensor) else type(keep).__name__
            raise TypeError(f"keep must be a bool tensor, got {got}")
        if keep.layout != torch.strided:
            raise TypeError(f"keep must be a dense tensor, got one with layout {keep.layout}")
        grid = grid_of(*shape, sizes)
        if tuple(keep.shape) != grid:
            raise ValueError(
                f"keep must have the grid {grid}, for {rows} × {cols} elements in blocks of {sizes}; "
                f"got shape {tuple(keep.shape)}"
            )
        plan = torch.ops.sparsedrop.plan(keep)
        # A copy: the plan would not follow a later change of the caller's grid.
        return BlockMask(packing.flat(keep.clone()), plan, _scale(scale, keep.device), shape, sizes)

    def with_scale(self, scale: float | Tensor) -> BlockMask:
        """The same kept blocks, multiplied by another number."""
        return BlockMask(self._flat, self.plan, _scale(scale, self.device), self.shape, self.block)

    @property
    def keep(self) -> Tensor:
        return packing.matrix(self._flat, *grid_of(*self.shape, self.block))

    def dense(self) -> Tensor:
        """The bool mask over elements, (rows, cols), unscaled."""
        return packing.spread(self._flat, *self.shape, self.block)

    @property
    def density(self) -> Tensor:
        """Kept elements over all elements, a 0-dim float32 tensor (1 for an empty matrix)."""
        rows, cols = self.shape
        if rows * cols == 0:
            return self._flat.new_ones((), dtype=torch.float32)
        heights = packing.block_sizes(rows, self.block[0], self.device)
        widths = packing.block_sizes(cols, self.block[1], self.device)
        kept = (self.keep * heights[:, None] * widths).sum()
        return (kept.double() / (rows * cols)).float()

    @property
    def device(self) -> torch.device:
        return self._flat.device

    def __repr__(self) -> str:
        grid = grid_of(*self.shape, self.block)
        return f"BlockMask(shape={self.shape}, block={self.block}, grid={grid}, device={self.device})"


def random_numbers(grid: tuple[int, int], balanced: bool, device: torch.device | str | None) -> Tensor:
    """What decides over a grid of blocks: the numbers of torch.rand(grid), in a row."""
    return torch.rand(flat_size(grid[0], grid[1] + balanced), dtype=torch.float32, device=device)


def draw(
    uniform: Tensor, p: Probability, balanced: bool,
    shape: tuple[int, int], grid: tuple[int, int], block: tuple[int, int],
) -> BlockMask:  # fmt: skip
    """`BlockMask.draw` with random numbers and arguments that are known to be good."""
    flat, plan, scale = _DRAW(uniform, _as_tensor(p, uniform.device), balanced, grid)
    return BlockMask(flat, plan, scale, shape, block)


_DRAW = torch.ops.sparsedrop.draw.default


def _as_tensor(p: Probability, device: torch.device) -> Tensor:
    """``p`` as the op takes it."""
    if not isinstance(p, Tensor):
        return torch.full((), p, dtype=torch.float32, device=device)
    return p.detach().to(torch.float32) if p.requires_grad or p.dtype != torch.float32 else p


def check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")


def check_p(p: Probability, name: str = "p") -> None:
    """A probability: a float in [0, 1], or a 0-dim floating tensor, whose value is not looked at."""
    if isinstance(p, Tensor):
        if p.dim() != 0 or not p.is_floating_point():
            raise ValueError(f"{name} as a tensor must be 0-dim and floating, got {p.dtype} of shape {tuple(p.shape)}")
    elif isinstance(p, bool) or not isinstance(p, (int, float)):
        raise TypeError(f"{name} must be a float in [0, 1] or a 0-dim tensor, got {p!r}")
    elif not 0 <= p <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {p}")


def check_shape(rows: int, cols: int) -> tuple[int, int]:
    for name, size in (("rows", rows), ("cols", cols)):
        if isinstance(size, bool) or not isinstance(size, (int, torch.SymInt)):
            raise TypeError(f"{name} must be an int, got {size!r}")
        if size < 0:
            raise ValueError(f"{name} must not be negative, got {size}")
    return rows, cols


_LARGEST = torch.finfo(torch.float32).max


def _scale(scale: float | Tensor, device: torch.device) -> Tensor:
    if not isinstance(scale, Tensor):
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not abs(scale) <= _LARGEST:
            raise ValueError(f"scale must be a finite number or a 0-dim tensor, got {scale!r}")
        return torch.full((), scale, dtype=torch.float32, device=device)
    if scale.dim() != 0 or not scale.is_floating_point():
        raise ValueError(f"scale must be a 0-dim floating tensor, got {scale.dtype} of shape {tuple(scale.shape)}")
    if scale.device != device:
        raise ValueError(f"scale must be on the mask's device {device}, got {scale.device}")
    return scale.detach().to(torch.float32)


def _flatten(mask: BlockMask) -> tuple[list[Any], Any]:
    return [mask._flat, mask.plan, mask.scale], (mask.shape, mask.block)


def _flatten_with_keys(mask: BlockMask) -> tuple[list[tuple[Any, Any]], Any]:
    children, context = _flatten(mask)
    return [(pytree.GetAttrKey(name), child) for name, child in zip(_CHILDREN, children, strict=True)], context


def _unflatten(children: Any, context: Any) -> BlockMask:
    return BlockMask(*children, *context)


_CHILDREN = ("_flat", "plan", "scale")

pytree.register_pytree_node(
    BlockMask,
    _flatten,
    _unflatten,
    serialized_type_name="torch_sparsedrop.BlockMask",
    flatten_with_keys_fn=_flatten_with_keys,
    to_dumpable_context=list,
    from_dumpable_context=lambda context: tuple(map(tuple, context)),  # JSON has lists only
)

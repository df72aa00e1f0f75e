"""What the ops accept, said in terms of the argument at fault."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .functions import FUNCTIONS
from .layout import layout

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def grid_of(rows: int, cols: int, block: Sequence[int]) -> tuple[int, int]:
    """Blocks that cover ``rows`` × ``cols`` elements; the last of each direction may be short."""
    return (rows + block[0] - 1) // block[0], (cols + block[1] - 1) // block[1]


def flat_size(rows: int, cols: int) -> int:
    """Elements of a flat grid: rows · cols, but never one, which the compiler would make a graph of its own for."""
    size = rows * cols
    if isinstance(cols, int) and cols > 1:
        return size
    return max(size, 2) if isinstance(size, int) else torch.sym_max(size, 2)


def check_grid(tensor: Tensor, name: str, dtype: torch.dtype, grid: Sequence[int], extra: int = 0) -> tuple[int, int]:
    """Rows and columns of a grid of blocks. ``extra``: columns that ``tensor`` has beyond the grid's."""
    if tensor.dtype == dtype and not len(grid) and tensor.dim() == 2 and tensor.shape[1] >= extra:
        return tensor.shape[0], tensor.shape[1] - extra
    fits = len(grid) == 2 and _are_sizes(grid) and tensor.dim() == 1
    if tensor.dtype != dtype or not fits or tensor.shape[0] != flat_size(grid[0], grid[1] + extra):
        kind = str(dtype).removeprefix("torch.")
        wanted = f"flat, of a grid {tuple(grid)}" if len(grid) else "2-dim"
        columns = " with a column more than the grid" if extra else ""
        got = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        raise ValueError(f"{name} must be {kind} and {wanted}{columns}, got {got}")
    return grid[0], grid[1]


def check_uniform(uniform: Tensor, balanced: bool, grid: Sequence[int]) -> tuple[int, int, int]:
    """How many masks are drawn, and their grid's rows and columns."""
    if len(grid) != 3 or not _are_sizes(grid):
        return 1, *check_grid(uniform, "uniform", torch.float32, grid, int(balanced))
    count, rows, cols = grid
    check_grid(uniform, "uniform", torch.float32, (count * rows, cols), int(balanced))
    return count, rows, cols


def _are_sizes(grid: Sequence[int]) -> bool:
    return not any(isinstance(size, int) and size < 0 for size in grid)


def check_p_tensor(p: Tensor, uniform: Tensor) -> None:
    if p.dtype != torch.float32 or p.dim() != 0:
        raise ValueError(f"p must be a 0-dim float32 tensor, got {p.dtype} of shape {tuple(p.shape)}")
    if p.device != uniform.device:
        raise ValueError(f"p must be on {uniform.device}, where the mask is drawn, got {p.device}")


def check_block(block: object, name: str = "block") -> tuple[int, int]:
    """``block`` as two ints of at least 16 that kernels can count with."""
    pair = (block, block) if isinstance(block, int) else block
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{name} must be two ints (rows, columns), got {block!r}")
    for size in pair:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be two ints (rows, columns), got {block!r}")
        if not 16 <= size < 2**31:
            raise ValueError(f"{name} must be at least 16 and less than 2**31 in each direction, got {block!r}")
    return pair[0], pair[1]


def check_shapes(x: Tensor, weight: Tensor) -> None:
    """``x`` (..., K) and ``weight`` (N, K), whatever their dtypes."""
    for tensor, name in ((x, "x"), (weight, "weight")):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
        if tensor.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if x.dim() < 1:
        raise ValueError("x must have at least one dimension, (..., K), got a 0-dim tensor")
    if weight.dim() != 2:
        raise ValueError(f"weight must be 2-dim (N, K), got shape {tuple(weight.shape)}")
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x's last dimension must be weight's K = {weight.shape[1]}, got x of shape {tuple(x.shape)}")


def check_operand(tensor: Tensor, name: str, like: Tensor | None = None) -> None:
    """A floating tensor that the kernels serve, of the dtype and device of ``like``."""
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one with layout {tensor.layout}")
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")
    if like is None:
        return
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name} must have x's dtype {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on x's device {like.device}, got {tensor.device}")


def check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[int, int, int]:
    """(M, N, K) of ``x Wᵀ + b``."""
    check_shapes(x, weight)
    check_operand(x, "x")
    check_operand(weight, "weight", x)
    if bias is not None:
        if not isinstance(bias, Tensor):
            raise TypeError(f"bias must be a Tensor or None, got {type(bias).__name__}")
        check_operand(bias, "bias", x)
        if bias.dim() != 1 or bias.shape[0] != weight.shape[0]:
            raise ValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    return math.prod(x.shape[:-1]), weight.shape[0], weight.shape[1]


def check_weight_grad(grad: Tensor, x: Tensor | None, plan_in: Tensor | None) -> tuple[int, int, int]:
    """(M, N, K) of ``gradᵀ x``; no ``x`` is a column of ones, which has no mask."""
    if x is None:
        check_operand(grad, "grad")
        if grad.dim() < 1:
            raise ValueError("grad must have at least one dimension, (..., N), got a 0-dim tensor")
        if plan_in is not None:
            raise ValueError("plan_in needs x, got none")
        return math.prod(grad.shape[:-1]), grad.shape[-1], 1
    check_operand(x, "x")
    check_operand(grad, "grad", x)
    if x.dim() < 1 or grad.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            f"grad (..., N) and x (..., K) must agree in '...', got {tuple(grad.shape)} and {tuple(x.shape)}"
        )
    return math.prod(x.shape[:-1]), grad.shape[-1], x.shape[-1]


def check_mask(
    name: str, plan: Tensor | None, scale: Tensor | None, block: Sequence[int], rows: int, cols: int, x: Tensor
) -> None:
    """One mask's plan, scale and block, for ``rows`` × ``cols`` elements."""
    if plan is None:
        if scale is not None or len(block):
            raise ValueError(f"scale_{name} and block_{name} need plan_{name}, got none")
        return
    if scale is None:
        raise ValueError(f"plan_{name} needs scale_{name}, got none")
    check_plan(plan, f"plan_{name}", block, f"block_{name}", rows, cols)
    if scale.dtype != torch.float32 or scale.dim() != 0:
        raise ValueError(
            f"scale_{name} must be a 0-dim float32 tensor, got {scale.dtype} of shape {tuple(scale.shape)}"
        )
    for tensor, what in ((plan, "plan"), (scale, "scale")):
        if tensor.device != x.device:
            raise ValueError(f"{what}_{name} must be on x's device {x.device}, got {tensor.device}")


def check_plan(plan: Tensor, name: str, block: Sequence[int], block_name: str, rows: int, cols: int) -> None:
    check_block(list(block), block_name)
    size = layout(*grid_of(rows, cols, block)).size
    if plan.dtype != torch.int32 or plan.dim() != 1 or plan.shape[0] != size:
        raise ValueError(
            f"{name} must be int32 of {size} words, for {rows} × {cols} elements in blocks of "
            f"{block[0]} × {block[1]}; got {plan.dtype} of shape {tuple(plan.shape)}"
        )


def check_activate(
    x: Tensor, bias: Tensor | None, function: int, plan: Tensor, block: Sequence[int]
) -> tuple[int, int]:
    """Rows and columns of ``x``."""
    if not 0 <= function < len(FUNCTIONS):
        numbers = ", ".join(f"{number} ({function.name})" for number, function in enumerate(FUNCTIONS))
        raise ValueError(f"function must be one of {numbers}, got {function}")
    check_operand(x, "x")
    if x.dim() < 1:
        raise ValueError("x must have at least one dimension, (..., N), got a 0-dim tensor")
    rows, cols = math.prod(x.shape[:-1]), x.shape[-1]
    check_plan(plan, "plan", block, "block", rows, cols)
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != cols or bias.dtype not in FLOATS):
        raise ValueError(f"bias must be floating of shape ({cols},), got {bias.dtype} of shape {tuple(bias.shape)}")
    for tensor, name in ((plan, "plan"), (bias, "bias")):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on x's device {x.device}, got {tensor.device}")
    return rows, cols


def check_activate_grad(grad: Tensor, x: Tensor) -> None:
    check_operand(grad, "grad", x)
    if grad.shape != x.shape:
        raise ValueError(f"grad must have x's shape {tuple(x.shape)}, got {tuple(grad.shape)}")


def check_masks(
    m: int, n: int, k: int, x: Tensor,
    plan_in: Tensor | None, scale_in: Tensor | None, block_in: Sequence[int],
    plan_out: Tensor | None, scale_out: Tensor | None, block_out: Sequence[int],
) -> None:  # fmt: skip
    """Both masks of an op on M rows, K inputs and N outputs."""
    check_mask("in", plan_in, scale_in, block_in, m, k, x)
    check_mask("out", plan_out, scale_out, block_out, m, n, x)
    if plan_in is not None and plan_out is not None and block_in[0] != block_out[0]:
        raise ValueError(
            f"block_in and block_out must have equal row blocks, got {tuple(block_in)} and {tuple(block_out)}"
        )

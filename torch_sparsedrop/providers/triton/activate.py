"""`sparsedrop::activate` and `sparsedrop::activate_grad`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops.checks import check_activate, check_activate_grad, grid_of
from ...ops.functions import FUNCTIONS, RELU
from ...ops.layout import layout
from .. import reference
from ..cuda import device as devices
from ..cuda.problem import ceil_div
from ..cuda.ready import WORKSPACE, Ready
from . import activate_kernel as kernels
from .column import adding, parts_of
from .start import Start
from .tiles import power_of_2

_ROWS, _COLS = 32, 128
_WARPS = 4
# Where the native part puts the addresses.
X, GRAD, Y, BIAS, BIAS_GRAD, PLAN = range(6)


def activate(*arguments: Any) -> Tensor:
    (y,), _ = serve_activate(*arguments)
    return y


def serve_activate(
    x: Tensor, bias: Tensor | None, function: int, plan: Tensor, block: Sequence[int], revision: int
) -> tuple[tuple[Tensor], Ready | None]:
    check_activate(x, bias, function, plan, block)
    if not _serves(x):
        return (reference.activate(x, bias, function, plan, block, revision),), None
    y, _, ready = _run(x, None, bias, None, function, plan, block)
    return (y,), ready


def activate_grad(*arguments: Any) -> tuple[Tensor, Tensor]:
    return serve_activate_grad(*arguments)[0]


def serve_activate_grad(
    grad: Tensor, x: Tensor, bias: Tensor | None, function: int, plan: Tensor, block: Sequence[int], revision: int
) -> tuple[tuple[Tensor, Tensor], Ready | None]:
    check_activate(x, bias, function, plan, block)
    check_activate_grad(grad, x)
    if not _serves(x):
        return reference.activate_grad(grad, x, bias, function, plan, block, revision), None
    dx, db, ready = _run(x, grad, None if function == RELU else bias, bias, function, plan, block)
    return (dx, x.new_empty((0,)) if db is None else db), ready


def _serves(x: Tensor) -> bool:
    return x.dtype in devices.DTYPES and x.numel() > 0


def _run(
    x: Tensor, grad: Tensor | None, bias: Tensor | None, like: Tensor | None,
    function: int, plan: Tensor, block: Sequence[int],
) -> tuple[Tensor, Tensor | None, Ready | None]:  # fmt: skip
    """f(x + b), or with ``grad`` its gradient, and what the latter sums up to, a tensor like ``like``."""
    given = x, grad, bias, plan
    used = [None if t is None else t.contiguous() for t in given]
    facts = tuple(None if t is None else (t.dtype, t.data_ptr() % 16 == 0) for t in (*used, like))
    rows, cols = x.numel() // x.shape[-1], x.shape[-1]
    sizes = rows, cols, (block[0], block[1])
    start, add, count = _prepare(*sizes, FUNCTIONS[function].name, grad is not None, x.device, facts)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    parts = None if like is None else torch.empty(count * cols, dtype=torch.float32, device=x.device)
    total = None if like is None else torch.empty(like.shape, dtype=like.dtype, device=x.device)
    start(*used[:2], y, used[2], parts, used[3])
    if like is not None:
        add(parts, total, None, None)
    launches = [start.launch] if like is None else [start.launch, add.launch]
    whole = all(t is None or t.is_contiguous() for t in given)
    ready = None if not whole or None in launches else Ready(launches, 0 if like is None else 4 * count * cols)
    return y, total, ready


@functools.lru_cache(maxsize=4096)
def _prepare(
    rows: int, cols: int, block: tuple[int, int], function: str, sums: bool, device: torch.device, facts: object
) -> tuple[Start, Start, int]:
    """The launch over the matrix, the one that adds the parts of a sum over its rows, and how many these are.

    ``facts``: what else launches are compiled for.
    """
    r, c = min(_ROWS, power_of_2(block[0])), min(_COLS, power_of_2(block[1]))
    grid = grid_of(rows, cols, block)
    down, across = grid[0] * ceil_div(block[0], r), grid[1] * ceil_div(block[1], c)
    count, each = parts_of(down, across, devices.multiprocessors(device)) if sums else (down, 1)
    bits, words = layout(*grid).row_bits, 2 * ceil_div(grid[1], 64)
    statics = rows, cols, bits, words, down, across, each, *block, r, c, function
    slots = X, GRAD, Y, BIAS, WORKSPACE, PLAN
    start = Start(kernels.activate, (count * across, 1, 1), statics, _WARPS, 1, slots)
    return start, adding(count, cols, (WORKSPACE, BIAS_GRAD)), count

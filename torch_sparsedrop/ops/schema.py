"""The ops. `linear` and `weight_grad` are each other's derivatives; `activate`, with the derivative `activate_grad`, is
M ⊙ f(x + b), as it stands between two linears that share a mask; `plan` and `draw` prepare masks; `layer` is `draw` and
`linear` in one call, for eager mode.

Every op is pure: random numbers enter as the tensor ``uniform``, drawn in the graph by ``torch.rand``.
A mask reaches an op as three arguments: its plan, its scale (a 0-dim float32 tensor) and its block
(two sizes); an absent mask is ``None, None, []``. In `weight_grad` no ``x`` stands for a column of ones, against
which a bias has its gradient.

A grid of blocks, ``keep`` or ``uniform``, is a matrix, or flat with its sizes in ``grid``. Compiled graphs
hold flat ones only: a matrix of one row would be a graph of its own. `draw` makes several masks of one grid at once
where ``grid`` is (masks, rows, columns): their numbers, grids and plans lie behind each other.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch

library = torch.library.Library("sparsedrop", "DEF")

_MASKS = (
    "Tensor? plan_in, Tensor? scale_in, int[] block_in, "
    "Tensor? plan_out, Tensor? scale_out, int[] block_out, int revision"
)

# Kernels read any strides, so the compiler need not copy inputs into another layout.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)

library.define("plan(Tensor keep, SymInt[] grid=[]) -> Tensor", tags=_TAGS)
library.define(
    "draw(Tensor uniform, Tensor p, bool balanced, SymInt[] grid=[]) -> (Tensor keep, Tensor plan, Tensor scale)",
    tags=_TAGS,
)
library.define(f"linear(Tensor x, Tensor weight, Tensor? bias, {_MASKS}) -> Tensor", tags=_TAGS)
library.define(f"weight_grad(Tensor grad, Tensor? x, {_MASKS}) -> Tensor", tags=_TAGS)
_ACTIVATE = "Tensor x, Tensor? bias, int function, Tensor plan, int[] block, int revision"
library.define(f"activate({_ACTIVATE}) -> Tensor", tags=_TAGS)
library.define(f"activate_grad(Tensor grad, {_ACTIVATE}) -> (Tensor grad_x, Tensor grad_bias)", tags=_TAGS)

library.define(
    "layer(Tensor x, Tensor weight, Tensor? bias, Tensor uniform, Tensor? p, float number, bool balanced, bool out, "
    "int[] block, int revision) -> (Tensor y, Tensor plan, Tensor scale)",
    tags=_TAGS,
)

# On CUDA, calls of a kind that was not seen before: the results, and behind them what starts the next such call.
library.define("first_draw(Tensor uniform, Tensor? p, float number, bool balanced, SymInt[] grid=[]) -> Tensor[]")
library.define(f"first_linear(Tensor x, Tensor weight, Tensor? bias, {_MASKS}) -> Tensor[]")
library.define(f"first_weight_grad(Tensor grad, Tensor? x, {_MASKS}) -> Tensor[]")
library.define(f"first_activate({_ACTIVATE}) -> Tensor[]")
library.define(f"first_activate_grad(Tensor grad, {_ACTIVATE}) -> Tensor[]")
library.define("forget() -> ()")
library.define("tf32() -> bool")


def _revision() -> int:
    """A number that changes with the derivative formulas and with the sizes of plans.

    Compile caches key on a graph's arguments and do not see the formulas behind an op. Passing this
    number as an argument keeps a graph compiled by an older version from being served.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(source.read_bytes() for source in sources))


REVISION = _revision()

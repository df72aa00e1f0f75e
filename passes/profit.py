"""Which dropouts gain by being fused, for `select="profitable"`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from .forms import known, value
from .sites import Linear, Site, Size

# Fewer blocks than this in a masked row, and a mask often drops the row whole.
MIN_BLOCKS = 4


@dataclass(frozen=True)
class Profit:
    """When fusing gains on one kind of device, forward and backward, compiled, against `F.dropout`: where

        element · elements + work · p · multiply-adds ≥ cost

    with the elements that are dropped or not, and the multiply-adds of the linears beside them in a forward pass. An
    inserted dropout stands in for no other: there, where multiply-adds count, elements do not.

    Attributes:
        cost: what drawing the mask and the masked kernels add to a step.
        element: what `F.dropout` costs for an element, fused into what stands beside it.
        work: what a multiply-add costs, in all three products.
        copies: whether linears still gain where others (a residual) must read a masked copy.
    """

    cost: float
    element: float
    work: float
    copies: bool


PROFIT = {
    # Measured on two cores: 16 × 512 takes 0.41 ms against 0.63; q, k, v and a residual at 128 × 768, 7.7 against
    # 17.6.
    "cpu": Profit(cost=1 << 13, element=1, work=0, copies=True),
    # In µs, on an H200 in bfloat16. Cost and work: the line through what layers of twelve shapes, without bias, take in
    # CUDA graphs more than without dropout (examples/results/h200-small-layers.json); nine in ten lie within 10 µs of
    # it, the smallest shapes below. An element: what the dropouts that are fused take of a step, 2.4 ps in nanoGPT,
    # 2.7 in ViT, 2.9 in T5, 4.7 in BERT.
    "cuda": Profit(cost=18, element=2.5e-6, work=7e-9, copies=False),
}
# Not measured.
PROFIT_ELSEWHERE = Profit(cost=1 << 20, element=1, work=0, copies=False)
# Of a probability that is not known when the graph is rewritten.
USUAL_P = 0.1


def unprofitable(site: Site, beside: list[Linear], copied: bool = False) -> str:
    """Why a dropout would not gain, or nothing.

    ``beside``: the linears that would skip what is dropped. ``copied``: whether others read it too.
    """
    cols = site.shape[-1]
    if isinstance(cols, int):
        blocks = -(-cols // site.block[1])
        if blocks < MIN_BLOCKS:
            cure = cols // MIN_BLOCKS // 16 * 16
            hint = f"; block=({site.block[0]}, {cure}) would do" if cure >= 16 else ""
            return f"would drop whole rows: {cols} columns are {blocks} blocks of {site.block[1]}{hint}"
    tensor = value(site.node)
    profit = PROFIT.get("" if tensor is None else tensor.device.type, PROFIT_ELSEWHERE)
    if copied and not profit.copies:
        return 'others read it too (a residual): the saving is eaten by the masked copy; select="all" fuses it'
    elements = _product(site.shape)
    weights = [_product(map(known, weight.shape)) for linear in beside if (weight := value(linear.weight)) is not None]
    if elements is None or None in weights:
        return ""
    work = sum(elements // max(cols, 1) * numbers for numbers in weights if numbers)
    p = USUAL_P if site.p is None or isinstance(site.p, fx.Node) else site.p
    element = 0 if site.inserted and profit.work else profit.element
    if element * elements + profit.work * p * work < profit.cost:
        return f'too small to gain: {elements} elements, {work} multiply-adds beside them; select="all" fuses it'
    return ""


def _product(sizes: Iterable[Size]) -> int | None:
    """None where a size is not known."""
    sizes = list(sizes)
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None

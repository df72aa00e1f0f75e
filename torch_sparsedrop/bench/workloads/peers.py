"""What a user could take instead, beside plain F.dropout + F.linear."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops import packing
from ..settings import Settings, Shape
from .operands import Layer, Masks

PEERS = {
    "dropout compiled": "F.dropout + F.linear under torch.compile",
    "block mask": "a block mask in plain PyTorch, then F.linear",
    "block mask compiled": "the same under torch.compile",
    "bsr": "the dropped input as torch's block-sparse matrix, made beforehand; forward only",
}


def layers(settings: Settings, plain: dict[str, Layer], shape: Shape, mask: str, phase: str) -> dict[str, Layer]:
    """The peers asked for, as layers."""
    if settings.peers:
        torch._dynamo.reset()  # a function is compiled for a few shapes only
    found: dict[str, Layer] = {}
    p = settings.middle_p
    blocks = _block_masked(settings, shape, mask, p)
    for name in settings.peers:
        if name == "dropout compiled":
            found[name] = torch.compile(plain["dropout"], dynamic=False)
        elif name == "block mask":
            found[name] = blocks
        elif name == "block mask compiled":
            found[name] = torch.compile(blocks, dynamic=False)
        elif name == "bsr" and mask == "in" and phase == "forward":
            found[name] = _bsr(settings, shape, p)
    return found


def tried(name: str, ready: Callable[[], Callable[[], object]]) -> Callable[[], object] | None:
    """The peer's call where it runs, or None and a word on why it does not."""
    try:
        call = ready()
        call()
    except Exception as error:
        print(f"{name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return call


def _block_masked(settings: Settings, shape: Shape, mask: str, p: float) -> Layer:
    rows, cols = settings.block

    def dropped(matrix: Tensor) -> Tensor:
        m, n = matrix.shape
        keep = torch.rand((-(-m // rows), -(-n // cols)), device=matrix.device) >= p
        return torch.where(packing.spread(keep, m, n, (rows, cols)), matrix, 0) * (1 / (1 - p))

    def layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x if mask == "out" else dropped(x), weight, bias)
        return y if mask == "in" else dropped(y)

    return layer


def _bsr(settings: Settings, shape: Shape, p: float) -> Layer:
    drop = Masks.draw(settings, shape, "in", p).drop_in
    assert drop is not None
    made: list[Tensor] = []

    def layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.no_grad():
            if not made:
                made.append((torch.where(drop.dense(), x, 0) * drop.scale.to(x.dtype)).to_sparse_bsr(settings.block))
            return F.linear(made[0], weight, bias)

    return layer

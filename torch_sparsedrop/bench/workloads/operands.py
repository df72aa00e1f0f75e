"""Tensors and masks of one linear layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...masks import BlockMask, Kind
from ...ops.flops import kept_multiply_adds
from ..settings import DTYPES, Settings, Shape

Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Of x, weight and bias."""


class Operands(NamedTuple):
    """x (M, K), weight (N, K), bias (N,) or none, and the gradient of the result (M, N)."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    grad: Tensor

    @staticmethod
    def make(shape: Shape, dtype: str, device: str, *, requires_grad: bool = False, bias: bool = True) -> Operands:
        generator = torch.Generator(device).manual_seed(0)

        def normal(*sizes: int, scale: float = 1.0) -> Tensor:
            numbers = torch.randn(sizes, generator=generator, device=device) * scale
            return numbers.to(DTYPES[dtype])

        m, n, k = shape
        made = Operands(normal(m, k), normal(n, k, scale=k**-0.5), normal(n) if bias else None, normal(m, n))
        for tensor in made[:3]:
            if tensor is not None:
                tensor.requires_grad_(requires_grad)
        return made


def narrower(size: int, p: float) -> int:
    """(1 - p) of it, as libraries like sizes."""
    return min(round((1 - p) * size / 64) * 64, size) or size


class Masks(NamedTuple):
    """The masks of one call, as many as ``mask`` names: "in", "out" or "both"."""

    drop_in: BlockMask | None
    drop_out: BlockMask | None

    @staticmethod
    def draw(settings: Settings, shape: Shape, mask: str, p: float | Tensor, kind: Kind = "bernoulli") -> Masks:
        def one(side: str, cols: int) -> BlockMask | None:
            if mask not in (side, "both"):
                return None
            return BlockMask.draw(shape.m, cols, p, block=settings.block, kind=kind, device=settings.device)

        return Masks(one("in", shape.k), one("out", shape.n))

    def arguments(self) -> tuple[Any, ...]:
        """As the ops take them."""
        return (*_arguments(self.drop_in), *_arguments(self.drop_out))

    def exchanged(self) -> Masks:
        """For the gradient of the input."""
        return Masks(self.drop_out, self.drop_in)

    def kept(self, shape: Shape) -> float:
        """Kept multiply-adds over all, the same in forward, dX and dW."""
        plan_in, _, block_in, plan_out, _, block_out = self.arguments()
        return kept_multiply_adds(*shape, plan_in, block_in, plan_out, block_out) / (shape.m * shape.n * shape.k)


def _arguments(mask: BlockMask | None) -> tuple[Any, ...]:
    return (None, None, []) if mask is None else (mask.plan, mask.scale, list(mask.block))

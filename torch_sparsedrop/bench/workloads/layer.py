"""A layer in training: draw, plan and all else that a step does, against F.linear with and without F.dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ...functional import dropout_linear, linear, linear_dropout
from ..settings import Settings, Shape
from ..timing import Side, Turn
from .job import Job, TimedJob
from .operands import Masks, Operands

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]
PHASES = ("forward", "forward+backward")


def jobs(settings: Settings) -> list[Job]:
    cases = product(settings.dtypes, settings.shapes, settings.masks_or("in"), PHASES, settings.p)
    return [_job(settings, *case) for case in cases]


def layers(settings: Settings, shape: Shape, mask: str, p: float) -> dict[str, Layer]:
    """The same layer three ways. SparseDrop gets p as a tensor: p = 0 goes through the masked kernels as well."""
    probability = torch.tensor(p, device=settings.device)

    def dropout(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.linear(x if mask == "out" else F.dropout(x, p), weight, bias)
        return y if mask == "in" else F.dropout(y, p)

    def sparsedrop(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if mask == "both":
            masks = Masks.draw(settings, shape, mask, probability)
            return linear(x, weight, bias, drop_in=masks.drop_in, drop_out=masks.drop_out)
        fused = dropout_linear if mask == "in" else linear_dropout
        return fused(x, weight, bias, probability, block=settings.block, kind=settings.kind)

    return {"dense": F.linear, "dropout": dropout, "sparsedrop": sparsedrop}


def step(layer: Layer, on: Operands, phase: str) -> object:
    """One call as training makes it; every side wants the same gradients in the same way."""
    inputs = on.x, on.weight, on.bias
    y = layer(*inputs)
    return torch.autograd.grad(y, inputs, on.grad) if phase == "forward+backward" else y


def sides(settings: Settings, shape: Shape, dtype: str, mask: str, p: float, phase: str) -> Sequence[Side]:
    on = Operands.make(shape, dtype, settings.device, requires_grad=True)
    made = layers(settings, shape, mask, p)

    def other(name: str) -> Callable[[int], Turn]:
        return lambda turn: Turn(lambda: step(made[name], on, phase))

    def sparsedrop(turn: int) -> Turn:
        torch.manual_seed(turn)
        kept = Masks.draw(settings, shape, mask, torch.tensor(p, device=settings.device)).kept(shape)
        # The call draws the mask itself; from this seed it is the same one.
        torch.manual_seed(turn)
        return Turn(lambda: step(made["sparsedrop"], on, phase), kept)

    return [Side("dense", other("dense")), Side("dropout", other("dropout")), Side("sparsedrop", sparsedrop)]


def _job(settings: Settings, dtype: str, shape: Shape, mask: str, phase: str, p: float) -> Job:
    key = {"what": "layer", "subject": str(shape), "dtype": dtype, "phase": phase, "mask": mask, "p": p}
    return TimedJob(key, lambda: sides(settings, shape, dtype, mask, p, phase), settings.masks, settings.warmup)

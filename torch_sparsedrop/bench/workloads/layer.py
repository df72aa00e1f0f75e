"""A layer in training: draw, plan and all else that a step does, against F.linear with and without F.dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ...functional import dropout_linear, linear, linear_dropout
from ...masks import Kind
from ..settings import PRESETS, Settings, Shape
from ..timing import GRAPH, STEPS, Side, Turn, captured, same
from . import peers
from .job import Job, TimedJob
from .operands import Layer, Masks, Operands

PHASES = ("forward", "forward+backward")


def jobs(settings: Settings) -> list[Job]:
    phases = (*PHASES, *(phase + GRAPH for phase in PHASES)) if settings.graph else PHASES
    cases = product(settings.dtypes, settings.shapes_or(*PRESETS["cube"]), settings.masks_or("in"), phases)
    return [_job(settings, *case) for case in cases]


def layers(settings: Settings, shape: Shape, mask: str, p: float, kind: Kind = "bernoulli") -> dict[str, Layer]:
    """The same layer three ways. SparseDrop gets p as a tensor: p = 0 goes through the masked kernels as well."""
    probability = torch.tensor(p, device=settings.device)

    def dropout(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x if mask == "out" else F.dropout(x, p), weight, bias)
        return y if mask == "in" else F.dropout(y, p)

    def sparsedrop(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if mask == "both":
            masks = Masks.draw(settings, shape, mask, probability, kind)
            return linear(x, weight, bias, drop_in=masks.drop_in, drop_out=masks.drop_out)
        fused = dropout_linear if mask == "in" else linear_dropout
        return fused(x, weight, bias, probability, block=settings.block, kind=kind)

    return {"dense": F.linear, "dropout": dropout, "sparsedrop": sparsedrop}


def step(layer: Layer, on: Operands, phase: str) -> object:
    """One call as training makes it; every side wants the same gradients in the same way."""
    y = layer(on.x, on.weight, on.bias)
    inputs = [tensor for tensor in (on.x, on.weight, on.bias) if tensor is not None]
    return torch.autograd.grad(y, inputs, on.grad) if phase == "forward+backward" else y


def sides(settings: Settings, shape: Shape, dtype: str, mask: str, phase: str) -> Sequence[Side]:
    """Dense and peers once; dropout and SparseDrop at every p."""
    on = Operands.make(shape, dtype, settings.device, requires_grad=True, bias=settings.bias)
    part, steps = phase.removesuffix(GRAPH), _steps(phase)

    def ready(layer: Layer) -> Callable[[], object]:
        def call() -> object:
            return step(layer, on, part)

        return captured(call, steps) if phase.endswith(GRAPH) else call

    def masked(turn: int, call: Callable[[], object], p: float, kind: Kind) -> Turn:
        torch.manual_seed(turn)
        probability = torch.tensor(p, device=settings.device)
        kept = [Masks.draw(settings, shape, mask, probability, kind).kept(shape) for _ in range(steps)]
        # The call draws the masks itself; from this seed they are the same ones.
        torch.manual_seed(turn)
        return Turn(call, sum(kept) / steps)

    plain = layers(settings, shape, mask, settings.middle_p)
    found = [same("dense", ready(plain["dense"]))]
    # On a CPU even F.dropout's time depends on p.
    for p in [p for p in settings.p if p > 0] or [settings.middle_p]:
        found.append(same("dropout", ready(layers(settings, shape, mask, p)["dropout"]), p=p))
    for name, layer in peers.layers(settings, plain, shape, mask, part).items():
        call = peers.tried(name, partial(ready, layer))
        if call is not None:
            found.append(same(name, call))
    for p, kind in product(settings.p, settings.kind):
        call = ready(layers(settings, shape, mask, p, kind)["sparsedrop"])
        found.append(Side("sparsedrop", partial(masked, call=call, p=p, kind=kind), p, kind))
    return found


def _job(settings: Settings, dtype: str, shape: Shape, mask: str, phase: str) -> Job:
    key = {"what": "layer", "subject": str(shape), "dtype": dtype, "phase": phase, "mask": mask}
    build = partial(sides, settings, shape, dtype, mask, phase)
    return TimedJob(key, build, settings.masks, settings.warmup, steps=_steps(phase))


def _steps(phase: str) -> int:
    return STEPS if phase.endswith(GRAPH) else 1

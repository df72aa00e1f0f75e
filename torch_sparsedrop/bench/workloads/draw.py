"""What a mask costs: draw and plan alone, for the input of a layer, beside that layer's forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from torch.nn import functional as F

from ...masks import BlockMask, Kind
from ..settings import PRESETS, Settings, Shape
from ..timing import GRAPH, STEPS, Side, captured, same
from .job import Job, TimedJob
from .operands import Operands


def jobs(settings: Settings) -> list[Job]:
    return [_job(settings, *case) for case in product(settings.dtypes, settings.shapes_or(*PRESETS["cube"]))]


def _job(settings: Settings, dtype: str, shape: Shape) -> Job:
    def draw(kind: Kind) -> object:
        return BlockMask.draw(
            shape.m, shape.k, settings.middle_p, block=settings.block, kind=kind, device=settings.device
        )

    def ready(call: Callable[[], object]) -> Callable[[], object]:
        return captured(call, STEPS) if settings.graph else call

    def build() -> Sequence[Side]:
        on = Operands.make(shape, dtype, settings.device)
        return [
            same("dense", ready(lambda: F.linear(on.x, on.weight, on.bias))),
            *(same("draw", ready(partial(draw, kind)), None, kind=kind) for kind in settings.kind),
        ]

    key = {"what": "draw", "subject": str(shape), "dtype": dtype, "phase": "draw and plan" + GRAPH * settings.graph}
    return TimedJob(key, build, settings.masks, settings.warmup, steps=STEPS if settings.graph else 1, grad=False)

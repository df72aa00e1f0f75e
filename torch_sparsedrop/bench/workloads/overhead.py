"""What a call costs the host beside the arithmetic: the layer on a matrix of one 16 × 16 block."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from ..settings import Settings, Shape
from . import layer
from .job import Job, TimedJob

TINY = Shape(16, 16, 16)
P = 0.5
CALLS = 100


def jobs(settings: Settings) -> list[Job]:
    cases = product(settings.dtypes, settings.masks_or("in"), layer.PHASES)
    return [_job(replace(settings, block=(16, 16), p=(P,), kind=("bernoulli",), peers=()), *case) for case in cases]


def _job(settings: Settings, dtype: str, mask: str, phase: str) -> Job:
    key = {"what": "overhead", "subject": str(TINY), "dtype": dtype, "phase": phase, "mask": mask}
    return TimedJob(
        key,
        lambda: layer.sides(settings, TINY, dtype, mask, phase),
        settings.masks,
        settings.warmup,
        calls=CALLS,
        clock="host",
    )

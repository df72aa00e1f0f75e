"""Timing that compares: all sides of a case take turns in one run, each turn with a fresh mask."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from ..cli.errors import UsageError


class Turn(NamedTuple):
    """One call to be timed, and the share of the dense multiply-adds that it does."""

    call: Callable[[], object]
    kept: float = 1.0


@dataclass(frozen=True)
class Side:
    """One of the things compared. ``prepare(round)`` makes a turn ready; its time does not count."""

    name: str
    prepare: Callable[[int], Turn]


class Sample(NamedTuple):
    seconds: float
    kept: float


class Quartiles(NamedTuple):
    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Quartiles:
        if len(values) == 1:
            return Quartiles(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Quartiles(median, low, high)


class Timer(Protocol):
    """How one device is timed."""

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """The time of one call, from ``calls`` of them in a row."""


class HostTimer:
    """For devices that have finished when the call returns."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        start = self.clock()
        for _ in range(calls):
            call()
        return (self.clock() - start) / calls


TIMERS: dict[str, Callable[[], Timer]] = {"cpu": HostTimer}


def timer_for(device: str) -> Timer:
    kind = torch.device(device).type
    if kind not in TIMERS:
        raise UsageError(f"--device must be one of {sorted(TIMERS)}, got {device!r}")
    return TIMERS[kind]()


def interleave(
    sides: Sequence[Side],
    timer: Timer,
    *,
    rounds: int,
    warmup: int = 0,
    calls: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, list[Sample]]:
    """Every side once in each round, in an order that changes; the first ``warmup`` rounds are not kept.

    The i-th samples of all sides come from one round, so that their ratio is free of slow drift.
    """
    shuffle = random.Random(0).sample
    samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
    for turn in range(warmup + rounds):
        for side in shuffle(sides, len(sides)):
            call, kept = side.prepare(turn)
            seconds = timer.seconds(call, calls)
            if turn >= warmup:
                samples[side.name].append(Sample(seconds, kept))
        tick()
    return samples

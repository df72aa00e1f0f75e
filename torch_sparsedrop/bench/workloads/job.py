"""A piece of work for `bench`: a title, a length, and rows at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..rows import Row, timed_rows
from ..timing import Clock, Side, Timer, interleave


class Job(Protocol):
    @property
    def title(self) -> str: ...

    @property
    def ticks(self) -> int: ...

    def run(self, timer: Timer, tick: Callable[[], object]) -> list[Row]:
        """The rows; calls ``tick`` ``ticks`` times on the way."""


@dataclass(frozen=True)
class TimedJob:
    """Sides that take turns. ``build`` makes them, and their tensors, when the job's time has come.

    Attributes:
        key: the fields of `Row` that all sides share.
        calls: calls in a row that one turn times, for calls too short to be timed alone.
        steps: how many a call makes; the time is that of one.
        grad: whether the calls record for autograd.
    """

    key: dict[str, Any]
    build: Callable[[], Sequence[Side]]
    rounds: int
    warmup: int
    calls: int = 1
    steps: int = 1
    grad: bool = True
    clock: Clock = "device"

    @property
    def title(self) -> str:
        parts = (self.key.get(name) for name in ("what", "subject", "dtype", "mask", "phase"))
        return " ".join(part for part in parts if part)

    @property
    def ticks(self) -> int:
        return self.warmup + self.rounds

    def run(self, timer: Timer, tick: Callable[[], object]) -> list[Row]:
        with torch.inference_mode(not self.grad):
            samples = interleave(
                self.build(), timer, rounds=self.rounds, warmup=self.warmup, calls=self.calls, steps=self.steps,
                clock=self.clock, tick=tick,
            )  # fmt: skip
        return timed_rows(samples, **self.key)

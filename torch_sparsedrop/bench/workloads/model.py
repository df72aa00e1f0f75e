"""A model's training step, compiled: with its own dropout, converted, and with less or no dropout at all.

Sides: "dropout", the model as it is, "none", every probability 0, "elsewhere", dropout only where SparseDrop leaves it
(attention, embeddings), "converted". On a GPU each side has a process of its own, and all compile at the same time.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from ...cli.machine import cpu
from ..models import MODELS
from ..models.apart import Apart, Here, Runner
from ..models.entrant import Ready, Which
from ..rows import Row, timed_rows
from ..settings import Settings
from ..timing import Side, Timer, Turn, interleave
from .job import Job

SIDES = ("dropout", "none", "elsewhere", "converted")


def jobs(settings: Settings) -> list[Job]:
    # What has not compiled by then would leave no time to measure the others.
    deadline = None if settings.budget is None else time.monotonic() + 0.7 * settings.budget
    cases = product(settings.models or MODELS, settings.dtypes)
    made = [ModelJob(settings, *case, deadline) for case in cases]

    @functools.cache
    def compile_all() -> None:
        # Left to itself, each compiler starts as many workers as there are cores.
        threads = max(1, cpu()["cores"] // sum(len(job.entrants()) for job in made))
        for job in made:
            job.start(threads)
        for job in made:  # nobody is timed while others still compile
            job.wait()

    if settings.gpu:
        made = [replace(job, begin=compile_all) for job in made]
    return list[Job](made)


@dataclass
class ModelJob:
    settings: Settings
    model: str
    dtype: str
    deadline: float | None = None
    begin: Callable[[], None] | None = None
    runners: dict[Which, Runner] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"model {self.model} {self.dtype}"

    @property
    def ticks(self) -> int:
        return len(self.entrants()) + self.settings.warmup + self.settings.masks

    def entrants(self) -> list[Which]:
        found = [Which(self.model, "none", self.dtype, 0.0, "")]
        for p in [p for p in self.settings.p if p > 0]:
            found += [
                Which(self.model, "dropout", self.dtype, p, ""),
                Which(self.model, "elsewhere", self.dtype, p, ""),
            ]
            found += [Which(self.model, "converted", self.dtype, p, kind) for kind in self.settings.kind]
        return found

    def run(self, timer: Timer, tick: Callable[[], object]) -> list[Row]:
        (self.begin or self.start)()
        try:
            return self._race(tick)
        finally:
            self.close()

    def start(self, threads: int = 1) -> None:
        """Lets the entrants compile, where they do that by themselves."""
        for which in self.entrants():
            if self.settings.gpu:
                self.runners[which] = Apart(self.settings, which, self.deadline, threads)
            else:
                self.runners[which] = Here(self.settings, which)

    def wait(self) -> None:
        """Until all entrants are ready, or have failed, which `_race` will meet again."""
        for runner in self.runners.values():
            with contextlib.suppress(RuntimeError, TimeoutError):
                runner.ready()

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()
        self.runners.clear()

    def _race(self, tick: Callable[[], object]) -> list[Row]:
        ready: dict[Side, Ready] = {}
        for which, runner in self.runners.items():
            ready[_side(which, runner)] = runner.ready()
            tick()
        samples = interleave(
            list(ready), _Told(), rounds=self.settings.masks, warmup=self.settings.warmup, clock="step", tick=tick
        )
        key = {"what": "model", "subject": self._subject(), "dtype": self.dtype, "phase": self._phase()}
        rows = timed_rows(samples, **key)
        self._profile()
        return [
            replace(row, peak_bytes=found.peak_bytes, note=found.note)
            for row, found in zip(rows, ready.values(), strict=True)
        ]  # fmt: skip

    def _subject(self) -> str:
        known = MODELS[self.model]
        batch, length = known.small_size if self.settings.small else known.size
        small = ", small" if self.settings.small else ""
        return f"{self.model}{small}, {self.settings.batch or batch} × {self.settings.length or length}"

    def _phase(self) -> str:
        phase = "forward+backward+optimizer" if self.settings.optimizer else "forward+backward"
        return phase + " in CUDA graphs" if self.settings.graph else phase

    def _profile(self) -> None:
        """Where each side's time goes."""
        if self.settings.profile is None:
            return
        for which, runner in self.runners.items():
            name = "-".join(filter(None, (which.model, which.dtype, which.side, f"{which.p:g}", which.kind)))
            Path(self.settings.profile, f"{name}.txt").write_text(runner.profile())


def _side(which: Which, runner: Runner) -> Side:
    def prepare(turn: int) -> Turn:
        return Turn(lambda: runner.turn(), None)

    return Side(which.side, prepare, None if which.side == "none" else which.p, which.kind)


class _Told:
    """A clock that believes what the entrant says: it timed itself, where it runs."""

    def seconds(self, call: Callable[[], object], calls: int, clock: object) -> float:
        told = call()
        assert isinstance(told, float)
        return told

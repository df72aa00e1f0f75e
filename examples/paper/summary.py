"""Runs grouped by method and p, means over seeds with 95 % intervals, and the p that the validation set prefers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tasks import METHODS, TASKS

Run = dict[str, Any]
Way = tuple[str, tuple[int, int] | None]

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for 95 %, by degrees of freedom from 1; few seeds make wide intervals."""


class Mean(NamedTuple):
    """A mean over seeds, and half its 95 % interval; none for a single seed."""

    value: float
    half: float | None

    @staticmethod
    def of(values: Sequence[float]) -> Mean:
        if len(values) < 2:
            return Mean(values[0], None)
        t = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
        return Mean(statistics.fmean(values), t * statistics.stdev(values) / len(values) ** 0.5)

    def text(self, form: str = ".3f", factor: float = 1.0) -> str:
        half = "" if self.half is None else f" ± {self.half * factor:{form.lstrip('+')}}"
        return f"{self.value * factor:{form}}{half}"


def validation(run: Run, metric: str) -> float:
    return run["validation"][metric]


def test(run: Run, metric: str) -> float:
    return run["test"][metric]


class Results:
    """What was measured on one task."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.task = TASKS[found["task"]]
        self.runs: dict[Way, dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
        for run in sorted(found["runs"], key=lambda run: run["seed"]):
            # A run that diverged at once has no checkpoint.
            if run["validation"]:
                self.runs[way_of(run)][run["p"]].append(run)

    def ways(self) -> list[Way]:
        return sorted(self.runs, key=lambda way: (list(METHODS).index(way[0]), [-size for size in way[1] or ()]))

    def main(self) -> list[Way]:
        """All methods, SparseDrop's with the largest of its blocks; smaller ones have a table of their own."""
        block = max((way[1] for way in self.runs if way[1]), key=lambda sizes: sizes[0] * sizes[1], default=None)
        return [way for way in self.ways() if way[1] in (None, block)]

    def best_p(self, way: Way) -> float:
        """By the mean of what early stopping watched, on the validation set, among the p with the most seeds."""
        by_p = self.runs[way]
        most = max(map(len, by_p.values()))
        sign = 1 if self.task.monitor == "accuracy" else -1
        full = [p for p in by_p if len(by_p[p]) == most]
        return max(full, key=lambda p: sign * self.mean(way, p, self.monitored).value)

    def best(self, way: Way) -> list[Run]:
        return self.runs[way][self.best_p(way)]

    def mean(self, way: Way, p: float, what: Callable[[Run], float]) -> Mean:
        return Mean.of([what(run) for run in self.runs[way][p]])

    def monitored(self, run: Run) -> float:
        return validation(run, self.task.monitor)

    def as_good_as(self, run: Run, target: float) -> int | None:
        """Steps until what early stopping watches was first as good as ``target``."""
        every = self.found["config"]["eval_every"]
        for i, value in enumerate(run["watched"], 1):
            if value == target or self.task.better(value, target):
                return min(i * every, run["steps"])
        return None

    def times(self) -> list[dict[str, Any]]:
        return self.found.get("times", {}).get("rows", [])

    def milliseconds(self, way: Way, p: float) -> float | None:
        """The median time of a step; dropout costs the same at every p."""
        for row in self.times():
            if way_of(row) == way and (way[0] not in ("bernoulli", "balanced") or row["p"] == p):
                return row["median"]
        return None


def way_of(row: Run) -> Way:
    return row["method"], tuple(row["block"]) if row["block"] else None


def label(way: Way) -> str:
    block = f", {way[1][0]} × {way[1][1]}" if way[1] and way[1] != (128, 128) else ""
    return METHODS[way[0]] + block

"""Timing that compares: all sides of a case take turns in one run, each turn with a fresh mask."""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch

from ..cli.errors import UsageError

Clock = Literal["device", "step", "host"]
"""What is timed: the device's work alone; steps as training makes them; or the host's part of a call."""


class Turn(NamedTuple):
    """One call to be timed, and the share of the dense multiply-adds that it does, where that is known. ``bound``: the
    greatest efficiency that whole tiles allow."""

    call: Callable[[], object]
    kept: float | None = 1.0
    bound: float | None = None


@dataclass(frozen=True)
class Side:
    """One of the things compared. ``prepare(round)`` makes a turn ready; its time does not count.

    ``p`` and ``kind`` tell sides of one name apart; sides that do not depend on p have None.
    """

    name: str
    prepare: Callable[[int], Turn]
    p: float | None = None
    kind: str = ""


def same(
    name: str, call: Callable[[], object], kept: float | None = 1.0, p: float | None = None, kind: str = ""
) -> Side:
    """A side that makes the same call in every round."""
    return Side(name, lambda turn: Turn(call, kept), p, kind)


class Sample(NamedTuple):
    seconds: float
    kept: float | None = 1.0
    bound: float | None = None


Samples = dict[Side, list[Sample]]


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

    def seconds(self, call: Callable[[], object], calls: int, clock: Clock) -> float:
        """The time of one call, from ``calls`` of them in a row."""


class HostTimer:
    """For devices that have finished when the call returns: all clocks are one."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now

    def seconds(self, call: Callable[[], object], calls: int, clock: Clock) -> float:
        return host_seconds(call, calls, self.now)


class CudaTimer:
    """Events on the current stream, behind a cleared L2 cache."""

    _LONGEST = 0.02

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._other_data = torch.empty(2 * cache, dtype=torch.int8, device=device)
        self._host = deque([2e-4], maxlen=8)

    def seconds(self, call: Callable[[], object], calls: int, clock: Clock) -> float:
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            if clock == "host":
                taken = host_seconds(call, calls, time.perf_counter)
                torch.cuda.synchronize()
                return taken
            self._other_data.zero_()
            if clock == "step":
                call()  # the host runs ahead of the device, as it does between a training loop's steps
            else:
                self._head_start()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self._host.append(host_seconds(call, calls, time.perf_counter) * calls)
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3 / calls

    def _head_start(self) -> None:
        """Keeps the device busy while the host starts what is to be timed: the device never waits for it."""
        seconds = min(1.5 * max(self._host), self._LONGEST)
        torch.cuda._sleep(int(seconds * 2e9))


def host_seconds(call: Callable[[], object], calls: int, now: Callable[[], float]) -> float:
    start = now()
    for _ in range(calls):
        call()
    return (now() - start) / calls


TIMERS: dict[str, Callable[[torch.device], Timer]] = {"cpu": lambda device: HostTimer(), "cuda": CudaTimer}


def timer_for(device: str) -> Timer:
    if device.partition(":")[0] not in TIMERS:
        raise UsageError(f"--device must be one of {sorted(TIMERS)}, got {device!r}")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: PyTorch {torch.__version__} finds no CUDA device here")
    return TIMERS[found.type](found)


STEPS = 10
# What a replay costs once, as for the random numbers' state, is shared as in a model of some layers.
GRAPH = f" in a CUDA graph of {STEPS} steps"


def captured(call: Callable[[], object], times: int = 1) -> Callable[[], object]:
    """``call``, made that many times, as a CUDA graph; its replay returns the last one's tensors, filled anew.

    Replays draw what the call would draw from the generator's state at that time.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            made = call()

    def replay() -> object:
        graph.replay()
        return made

    replay.reads = call  # type: ignore[attr-defined]  # a graph does not keep alive what it reads
    return replay


def interleave(
    sides: Sequence[Side],
    timer: Timer,
    *,
    rounds: int,
    warmup: int = 0,
    calls: int = 1,
    steps: int = 1,
    clock: Clock = "device",
    tick: Callable[[], object] = lambda: None,
) -> Samples:
    """Every side once in each round, in an order that changes; the first ``warmup`` rounds are not kept.

    A call makes that many ``steps``; the time is that of one. The i-th samples of all sides come from one round, so
    that their ratio is free of slow drift.
    """
    shuffle = random.Random(0).sample
    samples: Samples = {side: [] for side in sides}
    for turn in range(warmup + rounds):
        for side in shuffle(sides, len(sides)):
            prepared = side.prepare(turn)
            seconds = timer.seconds(prepared.call, calls, clock) / steps
            if turn >= warmup:
                samples[side].append(Sample(seconds, prepared.kept, prepared.bound))
        tick()
    return samples

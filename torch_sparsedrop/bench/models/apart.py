"""Entrants in processes of their own: all compile at the same time, and then run when it is their turn.

A process holds one model, so that its peak of memory and its compiler's state are its own.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from ..settings import Settings
from .entrant import Entrant, Ready, Which, patient


class Runner(Protocol):
    def ready(self) -> Ready:
        """Compiles, at the first call."""

    def turn(self) -> float: ...
    def profile(self) -> str: ...
    def close(self) -> None: ...


class Apart:
    """An entrant at the other end of a pipe. ``threads`` is how many workers its compiler may start."""

    def __init__(self, settings: Settings, which: Which, deadline: float | None, threads: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self.which = which
        self.deadline = deadline
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, settings, which), daemon=True)
        with _environment("TORCHINDUCTOR_COMPILE_THREADS", str(threads)):
            self.process.start()
        other.close()
        self.late: TimeoutError | None = None

    def ready(self) -> Ready:
        return Ready(*self._ask("ready", self.deadline))

    def turn(self) -> float:
        return float(self._ask("turn"))

    def profile(self) -> str:
        return str(self._ask("profile"))

    def close(self) -> None:
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()

    def _ask(self, what: str, deadline: float | None = None) -> Any:
        if self.late:
            raise self.late
        self.pipe.send(what)
        if not self.pipe.poll(None if deadline is None else max(0.0, deadline - time.monotonic())):
            late = "had not compiled when seven tenths of --budget were over; give more"
            self.late = TimeoutError(f"{self.which.model}, {self.which.side}: {late}")
            self.process.terminate()
            raise self.late
        try:
            state, answer = self.pipe.recv()
        except EOFError as error:
            raise RuntimeError(f"{self.which.model}, {self.which.side}: its process died") from error
        if state == "failed":
            raise RuntimeError(f"{self.which.model}, {self.which.side}: {answer}")
        return answer


class Here:
    """An entrant in this process."""

    def __init__(self, settings: Settings, which: Which) -> None:
        torch._dynamo.reset()
        self.entrant = Entrant(settings, which)
        self.turn, self.profile = self.entrant.turn, self.entrant.profile

    @functools.cached_property
    def _ready(self) -> Ready:
        return self.entrant.ready()

    def ready(self) -> Ready:
        return self._ready

    def close(self) -> None:
        pass


def _serve(pipe: Connection, settings: Settings, which: Which) -> None:
    """Compiles at once, then answers what it is asked."""
    entrant: Entrant | None = None
    try:
        entrant = patient(lambda: Entrant(replace(settings, threads=1), which))
        first: tuple[str, Any] = ("done", tuple(patient(entrant.ready)))
    except Exception as error:
        first = ("failed", _line(error))
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        pipe.send(first if asked == "ready" else _answer(entrant, asked))


def _answer(entrant: Entrant | None, asked: str) -> tuple[str, Any]:
    try:
        return "done", patient(getattr(entrant, asked))
    except Exception as error:
        return "failed", _line(error)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """For processes started inside; what the user set stays."""
    ours = name not in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if ours:
            del os.environ[name]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:500]}"

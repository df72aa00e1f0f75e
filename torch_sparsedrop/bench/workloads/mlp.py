"""The MLP block of a transformer, compiled: without dropout, with its own, converted, and narrowed to the kept work.

"Narrowed" is the block without dropout and with (1 - p) of the hidden width: what doing only the kept work of the two
linears could cost at best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...convert import convert
from ...explain import explain
from ...masks import Kind
from ..settings import DTYPES, Settings, Shape
from ..timing import GRAPH, STEPS, Side, captured, same
from .job import Job, TimedJob
from .operands import narrower


class Middle(nn.Module):
    """x + W₂ drop(gelu(W₁ norm(x))): dropout in the middle only."""

    def __init__(self, width: int, hidden: int, p: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.dropout(F.gelu(self.first(self.norm(x)))))


class T5(nn.Module):
    """x + drop(W₂ drop(relu(W₁ norm(x)))), without biases."""

    def __init__(self, width: int, hidden: int, p: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.wi = nn.Linear(width, hidden, bias=False)
        self.wo = nn.Linear(hidden, width, bias=False)
        self.inner = nn.Dropout(p)
        self.outer = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.wo(self.inner(F.relu(self.wi(self.norm(x))))))


class Encoder(nn.Module):
    """norm(x + drop(W₂ drop(relu(W₁ x)))), as in `nn.TransformerEncoderLayer`."""

    def __init__(self, width: int, hidden: int, p: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(p)
        self.dropout2 = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout2(self.linear2(self.dropout(F.relu(self.linear1(x))))))


BLOCKS: dict[str, Callable[[int, int, float], nn.Module]] = {"middle": Middle, "t5": T5, "encoder": Encoder}
"""By name; the fused dropouts are all that they have."""


def jobs(settings: Settings) -> list[Job]:
    shapes = settings.shapes_or(Shape(16384 if settings.gpu else 2048, 4096, 1024))
    cases = product(settings.dtypes, shapes, settings.blocks or BLOCKS)
    return [_job(settings, *case) for case in cases]


def sides(settings: Settings, dtype: str, shape: Shape, name: str) -> Sequence[Side]:
    """All sides share x, the gradient and, but for the narrowed ones, the weights."""
    torch._dynamo.reset()  # a function is compiled for a few shapes only
    torch.manual_seed(0)
    rows, hidden, width = shape
    where = torch.empty((), device=settings.device, dtype=DTYPES[dtype])
    x = torch.randn(rows, width).to(where).requires_grad_()
    grad = torch.randn(rows, width).to(where)

    def block(hidden: int, p: float) -> nn.Module:
        torch.manual_seed(0)
        return BLOCKS[name](width, hidden, p).to(where)

    def side(label: str, model: nn.Module, p: float | None, kind: str = "", kept: float | None = None) -> Side:
        parameters = list(model.parameters())

        def call() -> object:
            return torch.autograd.grad(model(x), (x, *parameters), grad)

        call()
        ready = captured(call, STEPS) if settings.graph else call
        return same(label, ready, kept, p, kind)

    def stock(model: nn.Module) -> nn.Module:
        model.compile(backend=settings.inner)
        return model

    found = [side("none", stock(block(hidden, 0.0)), None, kept=1.0)]
    for p in [p for p in settings.p if p > 0]:
        own = block(hidden, p)
        found += [side("converted", _converted(settings, own, x, p, kind), p, kind) for kind in settings.kind]
        found.append(side("dropout", stock(own), p, kept=1.0))
        kept = narrower(hidden, p)
        found.append(side("narrowed", stock(block(kept, 0.0)), p, kept=kept / hidden))
    return found


def _converted(settings: Settings, own: nn.Module, x: Tensor, p: float, kind: Kind) -> nn.Module:
    """A converted copy, of which all dropouts must be fused."""
    model = convert(copy.deepcopy(own), inner=settings.inner, select="all", block=settings.block, kind=kind)
    totals = explain(model, x).totals
    if totals["left"] or not totals["fused"]:
        raise RuntimeError(f"{totals['left']} dropouts of {type(own).__name__} at p = {p} are not fused")
    return model


def _job(settings: Settings, dtype: str, shape: Shape, name: str) -> Job:
    subject = f"{name}, {shape.m} rows, d {shape.k}, h {shape.n}"
    phase = "forward+backward" + GRAPH * settings.graph
    key = {"what": "mlp", "subject": subject, "dtype": dtype, "phase": phase}
    build = partial(sides, settings, dtype, shape, name)
    return TimedJob(key, build, settings.masks, settings.warmup, steps=STEPS if settings.graph else 1)

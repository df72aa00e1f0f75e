"""The first five minutes: a model with ordinary dropout, made faster by one line, and the same afterwards.

python examples/quickstart.py        under a minute on two cores; nothing is downloaded
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop


def make_model(width: int) -> nn.Sequential:
    """Any model: here ten classes from 64 numbers, with dropout between linear layers."""
    return nn.Sequential(
        nn.Linear(64, width), nn.GELU(), nn.Dropout(0.3),
        nn.Linear(width, width), nn.GELU(), nn.Dropout(0.3),
        nn.Linear(width, 10),
    )  # fmt: skip


def train(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Seconds of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seconds = []
    for x, y in batches:
        start = time.perf_counter()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return seconds


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (model.eval()(x).argmax(1) == y).float().mean().item()


def main(width: int = 1024, rows: int = 1024, steps: int = 40, inner: str = "inductor") -> dict[str, float]:
    torch.manual_seed(0)
    teacher = make_model(32).eval()
    batches = [(x, teacher(x).argmax(1)) for x in torch.randn(steps + 1, rows, 64)]
    test = batches.pop()

    plain, converted = make_model(width), make_model(width)
    converted.load_state_dict(plain.state_dict())

    # The one line. The model is compiled at its first training step; its parameters and their names stay.
    sparsedrop.convert(converted, inner=inner)
    print(sparsedrop.explain(converted, test[0]))

    found = {}
    for name, model in (("dropout", plain), ("sparsedrop", converted)):
        seconds = train(model.train(), batches)
        found[name] = accuracy(model, *test)
        # The first steps compile.
        median = statistics.median(seconds[3:]) * 1e3
        print(f"{name:>10}: {median:.1f} ms a step, test accuracy {found[name]:.1%} after {steps} steps")

    # Saved weights know nothing of SparseDrop.
    reloaded = make_model(width)
    reloaded.load_state_dict(converted.state_dict())
    found["reloaded"] = accuracy(reloaded, *test)
    return found


if __name__ == "__main__":
    main()

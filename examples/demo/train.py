"""Trains one character model three ways at once: without dropout, with F.dropout, with SparseDrop.

All three start from the same weights and take turns on the same batches, so that their times compare.

    python examples/demo/train.py            prints a table; writes demo.png and demo.json to out/
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import report
import torch
from model import WAYS, CharacterModel
from torch import Tensor
from torch.nn import functional as F

TEXT = Path(__file__).with_name("shakespeare.txt")


@dataclass
class Run:
    """One way of training, and what it measured."""

    model: CharacterModel
    optimizer: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    density: list[float] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)

    def step(self, x: Tensor, y: Tensor) -> None:
        start = _now(x.device)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds.append(_now(x.device) - start)
        self.density.append(self.model.density())

    @torch.no_grad()
    def validate(self, step: int, windows: Tensor) -> None:
        self.model.eval()
        loss = F.cross_entropy(self.model(windows[:, :-1]), windows[:, -1])
        self.losses.append((step, loss.item()))
        self.model.train()


def train(options: argparse.Namespace) -> dict[str, Run]:
    windows, validation, characters = _data(options)
    runs = {}
    for name, way in WAYS.items():
        torch.manual_seed(options.seed)
        model = way(characters, options.context, options.embedding, options.width, options.p).to(options.device)
        runs[name] = Run(model, torch.optim.AdamW(model.parameters(), lr=options.lr))

    order = list(runs.values())
    end = time.monotonic() + options.limit
    for step, (x, y) in enumerate(_batches(windows, options)):
        if step % options.validate_every == 0:
            for run in order:
                run.validate(step, validation)
        for run in order:
            run.step(x, y)
        order.append(order.pop(0))
        if time.monotonic() > end:
            print(f"\n{options.limit:g} seconds are over after {step + 1} steps; --limit allows more.")
            break
    for run in order:
        run.validate(len(run.seconds), validation)
    return runs


def _data(options: argparse.Namespace) -> tuple[Tensor, Tensor, int]:
    """Windows of a context and its next character, for training and validation; how many characters there are."""
    text = options.text.read_text()
    characters = sorted(set(text))
    data = torch.tensor([characters.index(c) for c in text], device=options.device)
    windows = data.unfold(0, options.context + 1, 1)
    cut = int(len(windows) * 0.9)
    # Every fourth window of the unseen part is enough to tell.
    return windows[:cut], windows[cut + options.context :: 4], len(characters)


def _batches(windows: Tensor, options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    from tqdm import trange

    generator = torch.Generator().manual_seed(options.seed)
    for _ in trange(options.steps, unit=" steps"):
        batch = windows[torch.randint(len(windows), (options.batch,), generator=generator).to(windows.device)]
        yield batch[:, :-1], batch[:, -1]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains one character model three ways at once.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (default: out)")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--device", type=torch.device, default=torch.device(device))
    parser.add_argument("--p", type=float, default=0.5)
    parser.add_argument("--lr", type=float, default=1e-3)
    sizes = {"seed": 0, "steps": 400, "batch": 1024, "context": 16, "embedding": 64, "width": 1024}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--limit", type=float, default=150, metavar="SECONDS", help="stop then (default: 150)")
    parser.add_argument("--validate-every", type=int, default=20, metavar="STEPS")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"One model, three ways, {options.steps} steps each, on {options.device}: {', '.join(WAYS)}")
    report.write(train(options), options)


if __name__ == "__main__":
    main()

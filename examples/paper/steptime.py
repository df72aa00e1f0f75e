"""Measures a training step of every method, alone on the machine: all methods take turns in one run.

    python examples/paper/steptime.py mlp gpt cifar10 --data DATA

A step is what training repeats: gather the batch, draw masks, forward, backward, optimiser. On a GPU it is one CUDA
graph. Writes times.json beside the task's logs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence

import torch
from layers import set_p
from tasks import BLOCK, OURS, TASKS, P, UserError
from tqdm import tqdm
from train import Workbench, add_common
from training import Stopwatch, Trainer

from torch_sparsedrop.cli import machine


def milliseconds(trainer: Trainer, p: float, steps: int) -> float:
    set_p(trainer.model, p)
    index = torch.arange(trainer.task.batch, device=trainer.device)
    for _ in range(2):
        trainer.step(index)
    watch = Stopwatch(trainer.device)
    for _ in range(steps):
        trainer.step(index)
    watch.stop()
    return watch.seconds / steps * 1e3


def measure(bench: Workbench, options: argparse.Namespace) -> list[dict[str, object]]:
    # Dropout costs the same at every p.
    cases = [("dense", None, 0.0), ("dropout", None, 0.5)]
    cases += [(method, block, p) for method in OURS for block in options.block or [BLOCK] for p in options.p]
    samples: dict[tuple, list[float]] = {case: [] for case in cases}
    for case in tqdm(cases, desc="compiling", unit="case"):
        milliseconds(bench.trainer(*case[:2]), case[2], 1)
    shuffle = random.Random(0).sample
    for _ in tqdm(range(options.rounds), desc=bench.task.name, unit="round"):
        for case in shuffle(cases, len(cases)):
            samples[case].append(milliseconds(bench.trainer(*case[:2]), case[2], options.steps))
    rows = []
    for (method, block, p), found in samples.items():
        low, median, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
        row = {"method": method, "block": block, "p": p, "low": low, "median": median, "high": high}
        rows.append({key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()})
    return rows


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="+", choices=TASKS)
    add_common(parser)
    parser.add_argument("--p", nargs="+", type=float, default=P)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="steps timed together")
    options = parser.parse_args(given)
    try:
        for name in options.task:
            bench = Workbench(name, options)
            rows = measure(bench, options)
            config = bench.config("dense", None, 0.0, 0)
            found = {"config": config, "machine": machine.describe(), "rows": rows}
            path = options.out / name / "times.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{path}: " + ", ".join(f"{r['method']} {r['p']} {r['median']:.2f} ms" for r in rows))
    except UserError as error:
        print(f"steptime.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the paper's experiments: one task or several, method by method, p by p, seed by seed.

    python examples/paper/train.py mlp --data DATA                         all methods, the paper's p, one seed
    python examples/paper/train.py mlp gpt cifar10 --data DATA --tier 1    the first of three selections
    python examples/paper/train.py gpt --data DATA --method dropout balanced --p 0.3 --seed 0 1 2 --block 64x64

Finished runs are kept, unfinished ones go on from their last checkpoint: repeat the command to continue.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from data import Data, load
from logs import Log, name_of, read
from runs import Interrupted, Run
from tasks import METHODS, TASKS, TIERS, Block, P, Selection, Task, UserError
from tqdm import tqdm
from training import Score, Trainer


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="+", choices=TASKS)
    add_common(parser)
    parser.add_argument("--tier", type=int, choices=TIERS, help="a selection of runs; 2 is the paper's grid")
    parser.add_argument("--method", nargs="+", choices=METHODS)
    parser.add_argument("--p", nargs="+", type=float, help=f"default: {' '.join(map(str, P))}")
    parser.add_argument("--seed", nargs="+", type=int, help="default: 0")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; the same command goes on")
    parser.add_argument("--save-every", type=float, default=300, metavar="SECONDS", help="checkpoints (default: 300)")
    return parser.parse_args(given)


def add_common(parser: argparse.ArgumentParser) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets (see README.md)")
    parser.add_argument("--out", type=Path, default=Path("out/paper"), help="folder of the logs (default: out/paper)")
    parser.add_argument("--device", type=torch.device, default=torch.device(device))
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: bf16 on a GPU, fp32 elsewhere")
    parser.add_argument("--block", nargs="+", type=block, metavar="ROWSxCOLUMNS", help="default: 128x128")
    parser.add_argument("--no-graph", dest="graph", action="store_false", help="on a GPU: no CUDA graph of the step")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it works")


def block(text: str) -> Block:
    rows, _, columns = text.partition("x")
    return int(rows), int(columns)


def selection(options: argparse.Namespace, task: str) -> Selection:
    """The tier's runs, or what --method, --p, --seed and --block name."""
    named = {
        "methods": options.method,
        "p": options.p,
        "seeds": options.seed,
        "blocks": options.block,
    }
    given = {key: tuple(value) for key, value in named.items() if value}
    if any(not 0 < p < 1 for p in given.get("p", ())):
        raise UserError(f"--p must be between 0 and 1, got {options.p}; p = 0 is the method dense")
    if options.tier is None:
        return Selection(**given)
    if given:
        raise UserError("--tier names the runs itself: leave out --method, --p, --seed and --block")
    if task not in TIERS[options.tier]:
        raise UserError(f"tier {options.tier} has no {task}; it has {', '.join(TIERS[options.tier])}")
    return TIERS[options.tier][task]


class Workbench:
    """What the runs of one task share: its data, and one compiled trainer per method and block."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.task: Task = TASKS[name].smoke() if options.smoke else TASKS[name]
        self.precision = options.precision or ("bf16" if options.device.type == "cuda" else "fp32")
        self.graph = options.graph and options.device.type == "cuda"
        self.data: Data = load(self.task.data, options.data, options.device)
        self.trainers: dict[tuple[str, Block | None], Trainer] = {}

    def trainer(self, method: str, block: Block | None) -> Trainer:
        if (method, block) not in self.trainers:
            self.trainers[method, block] = Trainer(self.task, method, block, self.data, self.precision, self.graph)
        return self.trainers[method, block]

    def config(self, method: str, block: Block | None, p: float, seed: int) -> dict[str, object]:
        chosen = {"method": method, "block": block, "p": p, "seed": seed, "precision": self.precision}
        how = {"device": self.data.inputs.device.type, "graph": self.graph, "files": self.data.digest}
        return {**asdict(self.task), **chosen, **how}


def train(options: argparse.Namespace) -> None:
    selections = {name: selection(options, name) for name in options.task}
    deadline = time.monotonic() + 60 * options.minutes
    for name, chosen in selections.items():
        began, before = time.monotonic(), finished(options.out / name)
        try:
            train_task(name, chosen, options, deadline)
        finally:
            runs = finished(options.out / name) - before
            if runs:
                note_wall(options.out / name / "walls.json", options.tier, runs, time.monotonic() - began)


def train_task(name: str, chosen: Selection, options: argparse.Namespace, deadline: float) -> None:
    bench, planned = Workbench(name, options), chosen.runs()
    logs = []
    # All logs are looked at before the first run starts.
    for seed, method, block, p in planned:
        path = options.out / name / f"{name_of(method, block, p, seed)}.jsonl"
        logs.append(Log(path, bench.config(method, block, p, seed)))
    done = sum(log.end is not None for log in logs)
    print(f"{bench.task.title}: {len(planned)} runs, {done} of them finished before")
    for (seed, method, block, p), log in tqdm(list(zip(planned, logs, strict=True)), unit="run"):
        if log.end:
            continue
        if time.monotonic() > deadline:
            raise Interrupted
        run = Run(bench.trainer(method, block), log, seed, p)
        label = log.path.stem
        with tqdm(total=bench.task.steps, initial=run.done, desc=label, unit="step", leave=False) as bar:

            def progress(steps: int, score: Score | None, bar: tqdm = bar) -> None:
                bar.update(steps)
                if score:
                    bar.set_postfix(loss=f"{score.loss:.3f}", accuracy=f"{score.accuracy:.2%}")

            end = run.finish(progress, deadline, options.save_every)
        best = end["validation"] or {}
        told = ", ".join(f"{key} {value:.4f}" for key, value in best.items())
        tqdm.write(f"{label}: {told} at step {end['best_step']} of {end['steps']} ({end['end']})")


def finished(folder: Path) -> int:
    return sum("end" in (read(path) or [{}])[-1] for path in folder.glob("*.jsonl"))


def note_wall(path: Path, tier: int | None, runs: int, seconds: float) -> None:
    """What all of it took, compiling and evaluating included."""
    walls = json.loads(path.read_text()) if path.exists() else []
    walls.append({"tier": tier, "runs": runs, "seconds": round(seconds, 1)})
    path.write_text(json.dumps(walls) + "\n")


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    try:
        train(options)
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except Interrupted:
        print("Time is over; the same command goes on from here.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the three runs measured, as a table, a sentence, a picture and JSON."""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from torch_sparsedrop.bench.timing import Quartiles
from torch_sparsedrop.cli import machine
from torch_sparsedrop.cli.table import render

if TYPE_CHECKING:
    from train import Run

COLORS = {"no dropout": "#4c566a", "F.dropout": "#c05a2e", "SparseDrop": "#1f6fb2"}
HEAD = ("training", "ms per step", "of no dropout", "blocks computed", "best validation loss", "at step", "last loss")


def write(runs: dict[str, Run], options: argparse.Namespace) -> None:
    times = {name: step_times(run) for name, run in runs.items()}
    table = [list(HEAD), *([name, *_cells(run, times[name], times["no dropout"])] for name, run in runs.items())]
    print(f"\n{render(table[0], table[1:])}\n\n{verdict(runs, times)}")
    steps = len(runs["SparseDrop"].seconds)
    picture = options.out / "demo.png"
    draw(runs, times, str(picture))
    results = {
        "machine": f"{machine.line(options.device.type)}; p = {options.p:g}, {steps} steps",
        "settings": {name: _plain(value) for name, value in vars(options).items() if name not in ("out", "text")},
        "table": table,
        "losses": {name: run.losses for name, run in runs.items()},
    }
    (options.out / "demo.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(f"The picture is {picture}.")


def step_times(run: Run) -> Quartiles:
    """Milliseconds of a step; the first steps, which load and allocate, do not count."""
    return Quartiles.of([seconds * 1e3 for seconds in run.seconds[min(5, len(run.seconds) - 1) :]])


def verdict(runs: dict[str, Run], times: dict[str, Quartiles]) -> str:
    """Said plainly, whoever wins."""
    own = times["SparseDrop"].median
    parts = []
    for name in ("no dropout", "F.dropout"):
        share = own / times[name].median
        word = "faster than" if share < 0.98 else "slower than" if share > 1.02 else "as fast as"
        parts.append(f"{word} {name} ({share:.2f} of its time a step)")
    best = {name: min(loss for _, loss in run.losses) for name, run in runs.items()}
    ranked = ", ".join(f"{name} {best[name]:.3f}" for name in sorted(best, key=lambda name: best[name]))
    return (
        f"SparseDrop is {' and '.join(parts)}.\n"
        f"Best validation loss, lowest first: {ranked}. One seed: a sample, no proof."
    )


def draw(runs: dict[str, Run], times: dict[str, Quartiles], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6"}
    with pyplot.rc_context(style | {"axes.axisbelow": True, "legend.frameon": False}):
        figure, (by_step, by_time, bars) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
        for name, run in runs.items():
            steps, losses = zip(*run.losses, strict=True)
            spent = [0.0, *accumulate(run.seconds)]
            by_step.plot(steps, losses, color=COLORS[name], label=name, linewidth=2)
            by_time.plot([spent[step] for step in steps], losses, color=COLORS[name], linewidth=2)
            own = times[name]
            error = [[own.median - own.low], [own.high - own.median]]
            bars.bar(name, own.median, color=COLORS[name], yerr=error, capsize=4, width=0.6)
        by_step.set(title="validation loss by step", xlabel="step")
        by_time.set(title="validation loss by time", xlabel="seconds of training")
        lowest = min(loss for run in runs.values() for _, loss in run.losses)
        for axis in (by_step, by_time):
            axis.set_ylim(lowest - 0.05, lowest + 0.8)
        bars.set(title="time per step", ylabel="ms")
        bars.grid(axis="x", visible=False)
        by_step.legend()
        figure.savefig(path, dpi=110)


def _cells(run: Run, own: Quartiles, dense: Quartiles) -> list[str]:
    step, best = min(run.losses, key=lambda item: item[1])
    return [
        f"{own.median:.1f} [{own.low:.1f}–{own.high:.1f}]",
        f"{own.median / dense.median:.2f}",
        f"{statistics.mean(run.density):.3f}",
        f"{best:.3f}",
        str(step),
        f"{run.losses[-1][1]:.3f}",
    ]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)

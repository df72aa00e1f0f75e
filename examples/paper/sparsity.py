"""What speed.py measured: figures 3 and 4, and the sparsity from which SparseDrop is faster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import table

Row = dict[str, Any]
SIDES = {"dense": ("#4c566a", "dense"), "dropout": ("#c05a2e", "dropout + dense")}
KINDS = {"bernoulli": ("#7fb2dd", "SparseDrop, Bernoulli"), "balanced": ("#1f6fb2", "SparseDrop, balanced")}
SHOWN_P = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)


class Case:
    """All sides of one subject, run in one way: eager, compiled or as a CUDA graph."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.subject, self.how = rows[0]["subject"], rows[0]["phase"]
        self.level = {row["side"]: row["seconds"]["median"] for row in rows if row["side"] in SIDES}
        self.ours = {
            kind: sorted((row for row in rows if row.get("kind") == kind), key=lambda row: -row["kept"])
            for kind in KINDS
        }

    def share(self, kind: str, p: float) -> str:
        """Of the dense time."""
        found = [row for row in self.ours[kind] if row["p"] == p]
        return f"{found[0]['seconds']['median'] / self.level['dense']:.2f}" if found else "–"

    def faster_from(self, kind: str, than: str) -> str:
        """The sparsity from which every measured point is faster, between two points by a straight line."""
        points = [(1 - row["kept"], row["seconds"]["median"] / self.level[than]) for row in self.ours[kind]]
        slower = [i for i, (_, share) in enumerate(points) if share >= 1]
        if not slower:
            return f"{points[0][0]:.2f}"
        if slower[-1] == len(points) - 1:
            return "–"
        (left, high), (right, low) = points[slower[-1] : slower[-1] + 2]
        return f"{left + (right - left) * (high - 1) / (high - low):.2f}"


def read(folder: Path, what: str) -> tuple[list[Case], str]:
    """The cases in the order of their measurement, and the machine."""
    file = folder / f"{what}.json"
    if not file.exists():
        return [], ""
    found = json.loads(file.read_text())
    keys = dict.fromkeys((row["subject"], row["phase"]) for row in found["rows"])
    return [Case([r for r in found["rows"] if (r["subject"], r["phase"]) == key]) for key in keys], found["machine"]


def section(folder: Path, what: str) -> str:
    cases, machine = read(folder, what)
    head = ["forward + backward of", "as", "dense, ms", "dropout", *(f"p = {p:g}" for p in SHOWN_P)]
    head += ["faster than dense from", "than dropout from"]
    rows = []
    for case in cases:
        cells = [case.subject, case.how, f"{case.level['dense'] * 1e3:.3f}"]
        cells.append(f"{case.level['dropout'] / case.level['dense']:.2f}")
        cells += [case.share("bernoulli", p) for p in SHOWN_P]
        rows.append([*cells, *(case.faster_from("bernoulli", than) for than in SIDES)])
    if not rows:
        return "Not run yet."
    return f"{table(head, rows, left=2)}\n\n{machine}.\n\n![{what} against sparsity](results/{what}.png)"


def draw(folder: Path, what: str) -> None:
    """Milliseconds against the sparsity of the masks that were used: a line of panels for each subject."""
    cases, machine = read(folder, what)
    if not cases:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    subjects = list(dict.fromkeys(case.subject for case in cases))
    columns = len(cases) // len(subjects)
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6"}
    with pyplot.rc_context(style | {"axes.axisbelow": True, "legend.frameon": False}):
        figure, axes = pyplot.subplots(
            len(subjects), columns, figsize=(4 * columns, 3 * len(subjects)), squeeze=False, layout="constrained"
        )
        for case, axis in zip(cases, axes.flat, strict=True):
            for side, (color, name) in SIDES.items():
                axis.axhline(case.level[side] * 1e3, color=color, linestyle="--", label=name)
            for kind, (color, name) in KINDS.items():
                x = [1 - row["kept"] for row in case.ours[kind]]
                low, middle, high = (
                    [row["seconds"][part] * 1e3 for row in case.ours[kind]] for part in ("low", "median", "high")
                )
                axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
                axis.plot(x, middle, color=color, marker="o", markersize=4, label=name)
            axis.set(title=f"{case.subject}, {case.how}", xlabel="share of the work dropped", ylabel="ms", xlim=(0, 1))
            axis.set_ylim(bottom=0)
        axes.flat[0].legend(fontsize="small")
        figure.supxlabel(machine, fontsize=7, color="#666666")
        figure.savefig(folder / f"{what}.png", dpi=100)
        pyplot.close(figure)

"""Rows as a picture: time against p, dense and dropout as level lines; for gemm, efficiency against p."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..cli.errors import UsageError, need
from .record import Record
from .rows import Row

COLORS = {"dense": "#4c566a", "dropout": "#c05a2e", "sparsedrop": "#1f6fb2"}
LABELS = {"dense": "F.linear", "dropout": "F.dropout + F.linear", "sparsedrop": "SparseDrop"}
MASKS = {"in": "#1f6fb2", "out": "#c05a2e", "both": "#3b8f5a"}
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
}


def save(record: Record, path: Path, *, phases: Sequence[str] | None = None) -> None:
    """A line of panels for each shape, dtype and place of the mask; a panel for each phase or product.

    ``phases`` picks some. With a single one, the panels fill lines of four.
    """
    lines = _lines([row for row in record.rows if phases is None or row.phase in phases])
    if not lines:
        raise UsageError("--png draws layer and gemm rows, and there are none")
    if all(len(line) == 1 for line in lines):
        lines = [[panel for line in lines[i : i + 4] for panel in line] for i in range(0, len(lines), 4)]
    matplotlib = need("matplotlib", "--png")
    matplotlib.use("Agg")
    pyplot = need("matplotlib.pyplot", "--png")
    columns = max(len(line) for line in lines)
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            len(lines), columns, figsize=(4.0 * columns, 3.3 * len(lines)), squeeze=False, layout="constrained"
        )
        explained: set[object] = set()
        for line, own in zip(lines, axes, strict=True):
            for axis in own[len(line) :]:
                axis.remove()
            for axis, (draw, title, rows) in zip(own, line, strict=False):
                draw(axis, rows)
                axis.set(title=title, xlabel="p")
                axis.set_ylim(bottom=0)
                if draw not in explained:
                    axis.legend(loc="lower left", fontsize=9)
                    explained.add(draw)
        figure.supxlabel(record.machine(), fontsize=7, color="#666666")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def times(axis: Any, rows: Sequence[Row]) -> None:
    """Milliseconds against p, with quartiles."""
    for side in LABELS:
        own = [row for row in rows if row.side == side and row.seconds]
        if side == "sparsedrop":
            _curve(axis, own, [row.seconds for row in own], 1e3, COLORS[side], LABELS[side])
        elif own:
            level = statistics.median(row.seconds.median for row in own if row.seconds) * 1e3
            axis.axhline(level, color=COLORS[side], linestyle="--", linewidth=1.6, label=LABELS[side])
    axis.set_ylabel("ms")


def efficiencies(axis: Any, rows: Sequence[Row]) -> None:
    """Kept-work efficiency against p, with quartiles, a line for each place of the mask."""
    axis.axhline(1, color=COLORS["dense"], linestyle="--", linewidth=1.6, label="F.linear")
    for mask in dict.fromkeys(row.mask for row in rows):
        own = [row for row in rows if row.mask == mask and row.side == "sparsedrop"]
        _curve(axis, own, [row.efficiency for row in own], 1, MASKS[mask], f"mask {mask}")
    axis.set_ylabel("kept-work efficiency")


def _curve(axis: Any, rows: Sequence[Row], values: Sequence[Any], factor: float, color: str, label: str) -> None:
    p = [row.p for row in rows]
    low, middle, high = ([getattr(v, part) * factor for v in values] for part in ("low", "median", "high"))
    axis.fill_between(p, low, high, color=color, alpha=0.18, linewidth=0)
    axis.plot(p, middle, color=color, marker="o", markersize=4, linewidth=2, label=label)


Panel = tuple[Callable[[Any, Sequence[Row]], None], str, list[Row]]


def _lines(rows: Sequence[Row]) -> list[list[Panel]]:
    lines: dict[tuple[str, ...], dict[str, Panel]] = {}
    for row in rows:
        if row.what not in ("layer", "gemm"):
            continue
        draw, mask = (times, row.mask) if row.what == "layer" else (efficiencies, "")
        place = f", mask {mask}" if mask else ""
        panel = (draw, f"{row.phase}{place}\n{row.subject}, {row.dtype}", list[Row]())
        line = lines.setdefault((row.what, row.subject, row.dtype, mask), {})
        line.setdefault(row.phase, panel)[2].append(row)
    return [list(line.values()) for line in lines.values()]

"""Rows as a picture: time against p, other sides as level lines; for gemm, efficiency against p."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cli.errors import UsageError, need
from .record import Record
from .rows import Row

OURS = "#1f6fb2"
SIDES = {
    "dense": ("#4c566a", "--", "F.linear"),
    "none": ("#4c566a", "--", "no dropout"),
    "dropout": ("#c05a2e", "--", "with F.dropout"),
    "dropout compiled": ("#c05a2e", ":", "with F.dropout, compiled"),
    "elsewhere": ("#8a6d3b", ":", "unfused dropout only"),
    "block mask": ("#9a7bb5", "--", "block mask + F.linear"),
    "block mask compiled": ("#9a7bb5", ":", "block mask + F.linear, compiled"),
    "bsr": ("#7a8f3c", "--", "torch BSR"),
    "narrowed": ("#3b8f5a", "-.", "narrowed to the kept work"),
    "sparsedrop": (OURS, "-", "SparseDrop"),
    "converted": (OURS, "-", "SparseDrop"),
}
DRAWN = ("layer", "gemm", "mlp", "model")
MASKS = {"in": OURS, "out": "#c05a2e", "both": "#3b8f5a"}
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


class Panel(NamedTuple):
    draw: Callable[[Any, Sequence[Row]], None]
    title: str
    rows: list[Row]


def save(
    records: Sequence[Record], path: Path, *, phases: Sequence[str] | None = None, what: Sequence[str] | None = None
) -> None:
    """A line of panels for each shape, dtype and place of the mask; a panel for each phase or product.

    ``phases`` and ``what`` pick some. With a single one, the panels fill lines of four.
    """
    chosen = [(record, row) for record in records for row in record.rows if row.what in (what or DRAWN)]
    chosen = [(record, row) for record, row in chosen if phases is None or row.phase in phases]
    lines = _lines([row for _, row in chosen])
    if not lines:
        raise UsageError("--png draws layer, gemm, mlp and model rows, and there are none")
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
            for axis, panel in zip(own, line, strict=False):
                panel.draw(axis, panel.rows)
                axis.set_title(panel.title)
                if panel.draw is bars:
                    continue
                axis.set_xlabel("p")
                axis.set_ylim(bottom=0)
                if panel.draw not in explained:
                    axis.legend(loc="lower left", fontsize=8)
                    explained.add(panel.draw)
        figure.supxlabel(
            "\n".join(dict.fromkeys(record.machine() for record, _ in chosen)), fontsize=7, color="#666666"
        )
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def times(axis: Any, rows: Sequence[Row]) -> None:
    """Milliseconds against p, with quartiles; sides that do not depend on p as level lines."""
    for name, (color, style, label) in SIDES.items():
        own = [row for row in rows if row.side == name and row.seconds]
        if not own:
            continue
        if name not in ("sparsedrop", "converted", "narrowed"):
            level = statistics.median(row.seconds.median for row in own if row.seconds) * 1e3
            axis.axhline(level, color=color, linestyle=style, linewidth=1.6, label=label)
            continue
        for kind in dict.fromkeys(row.kind for row in own):
            mine = [row for row in own if row.kind == kind]
            balanced = kind == "balanced"
            _curve(
                axis, mine, [row.seconds for row in mine], 1e3, "#5aa9dd" if balanced else color,
                f"{label}, balanced" if balanced else label, style,
            )  # fmt: skip
    axis.set_ylabel("ms")


def bars(axis: Any, rows: Sequence[Row]) -> None:
    """Milliseconds of each side, with quartiles, where there is a single p."""
    own = [row for name in reversed(SIDES) for row in rows if row.side == name and row.seconds]
    for row in own:
        assert row.seconds is not None
        median, low, high = (value * 1e3 for value in row.seconds)
        color, _, label = SIDES[row.side]
        label = f"{label}, {row.kind}" if row.kind == "balanced" else label
        axis.barh(label, median, xerr=[[median - low], [high - median]], color=color, height=0.6)
    axis.set(xlabel="ms", xlim=(0, None))
    axis.grid(visible=False, axis="y")


def efficiencies(axis: Any, rows: Sequence[Row]) -> None:
    """Kept-work efficiency against p, with quartiles, a line for each place of the mask."""
    axis.axhline(1, color=SIDES["dense"][0], linestyle="--", linewidth=1.6, label="F.linear")
    for mask, kind in dict.fromkeys((row.mask, row.kind) for row in rows if row.side == "sparsedrop"):
        own = [row for row in rows if (row.side, row.mask, row.kind) == ("sparsedrop", mask, kind)]
        label = f"mask {mask}" + (", balanced" if kind == "balanced" else "")
        _curve(axis, own, [row.efficiency for row in own], 1, MASKS[mask], label, ":" if kind == "balanced" else "-")
    axis.set_ylabel("kept-work efficiency")


def _curve(
    axis: Any, rows: Sequence[Row], values: Sequence[Any], factor: float, color: str, label: str, style: str
) -> None:
    p = [row.p for row in rows]
    low, middle, high = ([getattr(v, part) * factor for v in values] for part in ("low", "median", "high"))
    axis.fill_between(p, low, high, color=color, alpha=0.18, linewidth=0)
    axis.plot(p, middle, color=color, linestyle=style, marker="o", markersize=4, linewidth=2, label=label)


def _lines(rows: Sequence[Row]) -> list[list[Panel]]:
    lines: dict[tuple[str, ...], dict[str, Panel]] = {}
    for row in rows:
        draw, mask = (efficiencies, "") if row.what == "gemm" else (times, row.mask)
        place = f", mask {mask}" if mask else ""
        title = (
            f"{row.subject}\n{row.phase}" if row.what == "model" else f"{row.phase}{place}\n{row.subject}, {row.dtype}"
        )
        panel = Panel(draw, title, [])
        line = lines.setdefault((row.what, row.subject, row.dtype, mask), {})
        line.setdefault(row.phase, panel).rows.append(row)
    return [[_with_bars(panel) for panel in line.values()] for line in lines.values()]


def _with_bars(panel: Panel) -> Panel:
    single = len({row.p for row in panel.rows if row.p is not None}) == 1
    return panel._replace(draw=bars) if panel.draw is times and single else panel

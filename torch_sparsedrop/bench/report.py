"""Rows as tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from ..cli.table import render
from .record import Record
from .rows import Row
from .timing import Quartiles

NAMES = {"dense": "F.linear", "dropout": "with F.dropout", "sparsedrop": "SparseDrop"}


def text(record: Record) -> str:
    parts = [record.machine(), _rules(record)]
    for what, rows in groupby(record.rows, lambda row: row.what):
        parts += TABLES[what](list(rows))
    return "\n\n".join(parts)


def _rules(record: Record) -> str:
    at = record.settings
    return (
        f"SparseDrop is served by {record.provider()}; mask blocks {at.block[0]} × {at.block[1]}, {at.kind}\n"
        f"median [quartiles] of {at.masks} rounds, a fresh mask in each; system load before: {record.load}\n"
        "kept: share of the multiply-adds that was done, from the masks used"
    )


def layer(rows: Sequence[Row]) -> list[str]:
    """Time against p, and the ratios of the rounds."""
    head = ("p", "kept", *(f"{name} ms" for name in NAMES.values()), "of F.linear", "of dropout")
    parts = []
    for title, case in _grouped(rows, lambda row: (row.subject, row.dtype, f"mask {row.mask}", row.phase)):
        lines = []
        for p, sides in _by_side(case, lambda row: row.p):
            ours = sides["sparsedrop"]
            times = [_time(sides[name], 1e3) for name in NAMES]
            ratios = [_quartiles(ours.relative[name]) for name in ("dense", "dropout")]
            lines.append([f"{p:g}", f"{ours.kept:.3f}", *times, *ratios])
        parts.append(f"{', '.join(title)}\n{render(head, lines)}")
    return parts


def gemm(rows: Sequence[Row]) -> list[str]:
    """Kept-work efficiency of each product."""
    phases = list(dict.fromkeys(row.phase for row in rows))
    head = ("mask", "p", "kept", *(name for phase in phases for name in (f"{phase} ms", "efficiency")))
    parts = []
    for title, case in _grouped(rows, lambda row: (row.subject, row.dtype)):
        lines = []
        for (mask, p), found in _grouped(case, lambda row: (row.mask, row.p)):
            ours = {row.phase: row for row in found if row.side == "sparsedrop"}
            cells = [cell for phase in phases for cell in _product(ours[phase])]
            lines.append([str(mask), f"{p:g}", f"{next(iter(ours.values())).kept:.3f}", *cells])
        parts.append(f"kept-work efficiency, {', '.join(title)}\n{render(head, lines)}")
    return parts


def memory(rows: Sequence[Row]) -> list[str]:
    head = ("peak MiB beyond the inputs", *NAMES.values())
    lines = []
    for title, sides in _by_side(rows, lambda row: (row.subject, row.dtype, f"mask {row.mask}", row.phase)):
        lines.append([", ".join(title), *(f"{(sides[name].peak_bytes or 0) / 2**20:.1f}" for name in NAMES)])
    return [render(head, lines)]


def overhead(rows: Sequence[Row]) -> list[str]:
    head = ("µs for a 16 × 16 block", *NAMES.values(), "beyond F.linear", "the same of dropout")
    lines = []
    for title, sides in _by_side(rows, lambda row: (row.dtype, f"mask {row.mask}", row.phase)):
        dense, *others = (_seconds(sides[name]).median for name in NAMES)
        times = [_time(sides[name], 1e6) for name in NAMES]
        extra = [f"{(other - dense) * 1e6:.1f}" for other in reversed(others)]
        lines.append([", ".join(title), *times, *extra])
    return [render(head, lines)]


TABLES: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "layer": layer,
    "gemm": gemm,
    "memory": memory,
    "overhead": overhead,
}


def _grouped(rows: Iterable[Row], key: Callable[[Row], object]) -> list[tuple[Any, list[Row]]]:
    """In order of appearance, wherever the rows lie."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def _by_side(rows: Iterable[Row], key: Callable[[Row], object]) -> list[tuple[Any, dict[str, Row]]]:
    return [(name, {row.side: row for row in group}) for name, group in _grouped(rows, key)]


def _product(row: Row) -> list[str]:
    return [_time(row, 1e3), _quartiles(row.efficiency)]


def _time(row: Row, factor: float) -> str:
    median, low, high = (value * factor for value in _seconds(row))
    return f"{median:.2f} [{low:.2f}–{high:.2f}]"


def _seconds(row: Row) -> Quartiles:
    assert row.seconds is not None
    return row.seconds


def _quartiles(found: Quartiles | None) -> str:
    return "–" if found is None else f"{found.median:.2f} [{found.low:.2f}–{found.high:.2f}]"

"""Rows as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from ..cli.table import render
from .record import Record
from .rows import BASES, Row
from .timing import Quartiles

NAMES = {
    "dense": "F.linear", "dropout": "with F.dropout", "sparsedrop": "SparseDrop", "none": "no dropout",
    "elsewhere": "unfused dropout only", "converted": "SparseDrop", "draw": "draw and plan",
}  # fmt: skip
SHORT = {"dense": "of F.linear", "dropout": "of dropout", "dropout compiled": "of dropout compiled",
         "none": "of no dropout", "elsewhere": "of elsewhere", "narrowed": "of narrowed"}  # fmt: skip

BOUND_SHOWN_BELOW = 0.95


def text(record: Record) -> str:
    parts = [record.machine(), _rules(record)]
    for what, rows in groupby(record.rows, lambda row: row.what):
        parts += TABLES[what](list(rows))
    return "\n\n".join(parts)


def name_of(row: Row) -> str:
    name = NAMES.get(row.side, row.side)
    return name if row.kind in ("", "bernoulli") else f"{name}, {row.kind}"


def _rules(record: Record) -> str:
    at = record.settings
    return (
        f"SparseDrop is served by {record.provider()}; "
        f"mask blocks {at.block[0]} × {at.block[1]}, {', '.join(at.kind)}\n"
        f"median [quartiles] of {at.masks} rounds, a fresh mask in each; system load before: {record.load}\n"
        "kept: share of the multiply-adds that was done, from the masks used"
    )


def _compared(rows: Sequence[Row], factor: float, unit: str) -> list[str]:
    """A line for each side and p: its time, and the ratios of the rounds."""
    parts = []
    for title, case in _grouped(rows, lambda row: (row.subject, row.dtype, row.mask and f"mask {row.mask}", row.phase)):
        bases = [name for name in BASES if any(name in row.relative for row in case)]
        memory = any(row.peak_bytes for row in case)
        head = ("", "p", "kept", unit, *(SHORT[name] for name in bases), *["peak MiB"] * memory)
        lines = []
        for row in case:
            p, kept = ("" if value is None else f"{value:.3g}" for value in (row.p, row.kept))
            ratios = [_quartiles(row.relative.get(name)) for name in bases]
            peak = [f"{(row.peak_bytes or 0) / 2**20:.0f}"] * memory
            lines.append([name_of(row), p, kept, _time(row, factor), *ratios, *peak])
        notes = "".join(f"\n{note}" for note in dict.fromkeys(row.note for row in case if row.note))
        parts.append(f"{', '.join(filter(None, title))}\n{render(head, lines)}{notes}")
    return parts


def gemm(rows: Sequence[Row]) -> list[str]:
    """Kept-work efficiency of each product, and TFLOP/s counting what is kept. Where it is low, "of" what whole tiles
    of the result would allow (`bound.py`). "Narrowed" is the dense library on as much work as is kept."""
    phases = list(dict.fromkeys(row.phase for row in rows))
    head = ("mask", "p", "kept", *(name for phase in phases for name in (f"{phase} ms", "TFLOP/s", "efficiency")))
    parts = []
    for title, case in _grouped(rows, lambda row: (row.subject, row.dtype)):
        lines = []
        for (mask, side, kind, p), found in _grouped(case, lambda row: (row.mask, row.side, row.kind, row.p)):
            own = {row.phase: row for row in found}
            cells = [cell for phase in phases for cell in (_product(own[phase]) if phase in own else ["–"] * 3)]
            label = side if side != "sparsedrop" else kind[: len(kind) * (kind != "bernoulli")]
            kept = "–" if found[0].kept is None else f"{found[0].kept:.3f}"
            lines.append([" ".join(filter(None, (mask, label))), "" if p is None else f"{p:g}", kept, *cells])
        efficiencies = [row.efficiency.median for row in case if row.side == "sparsedrop" and row.efficiency]
        summary = f"geometric mean {_geometric_mean(efficiencies):.3f}, lowest {min(efficiencies):.3f}"
        parts.append(f"kept-work efficiency, {', '.join(title)}: {summary}\n{render(head, lines)}")
    return parts


def memory(rows: Sequence[Row]) -> list[str]:
    sides = ("dense", "dropout", "sparsedrop")
    head = ("peak MiB beyond the inputs", *(NAMES[side] for side in sides))
    lines = []
    for title, case in _grouped(rows, lambda row: (row.subject, row.dtype, f"mask {row.mask}", row.phase)):
        own = {row.side: row for row in case}
        lines.append([", ".join(title), *(f"{(own[side].peak_bytes or 0) / 2**20:.1f}" for side in sides)])
    return [render(head, lines)]


TABLES: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "layer": lambda rows: _compared(rows, 1e3, "ms"),
    "gemm": gemm,
    "draw": lambda rows: _compared(rows, 1e6, "µs"),
    "mlp": lambda rows: _compared(rows, 1e3, "ms"),
    "model": lambda rows: _compared(rows, 1e3, "ms"),
    "memory": memory,
    "overhead": lambda rows: _compared(rows, 1e6, "µs"),
}


def multiply_adds(row: Row) -> int:
    """Of a row whose subject is a shape."""
    return math.prod(int(size) for size in row.subject.split("×"))


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _grouped(rows: Iterable[Row], key: Callable[[Row], object]) -> list[tuple[Any, list[Row]]]:
    """In order of appearance, wherever the rows lie."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def _product(row: Row) -> list[str]:
    rate = 2 * multiply_adds(row) * (row.kept or 1) / _seconds(row).median / 1e12
    reached = _quartiles(row.efficiency)
    if row.efficiency is not None and row.bound is not None and row.efficiency.median < BOUND_SHOWN_BELOW:
        reached += f" of {row.bound:.2f}"
    return [_time(row, 1e3), f"{rate:.3g}", reached]


def _time(row: Row, factor: float) -> str:
    median, low, high = (value * factor for value in _seconds(row))
    return f"{median:.4g} [{low:.4g}–{high:.4g}]"


def _seconds(row: Row) -> Quartiles:
    assert row.seconds is not None
    return row.seconds


def _quartiles(found: Quartiles | None) -> str:
    return "–" if found is None else f"{found.median:.2f} [{found.low:.2f}–{found.high:.2f}]"

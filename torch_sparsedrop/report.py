"""What `explain` returns: rows and totals, as data and as a table."""

from __future__ import annotations

import importlib.util
import io
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .options import Options

COLUMNS = ("module", "class", "shape", "p", "decision", "how", "readers", "flops_share", "saving", "reason")


@dataclass(repr=False)
class Report:
    """Prints as a table. ``sites`` has one row for each dropout call, ``totals`` sums them up."""

    sites: list[dict[str, Any]]
    totals: dict[str, Any]
    options: Options
    converted: bool
    notes: list[str]

    @staticmethod
    def of(
        graphs: list[tuple[list[Any], dict[fx.Node, Any], int]],
        options: Options,
        flops: int,
        called: Counter[str],
        breaks: int,
        converted: bool,
        notes: list[str],
    ) -> Report:
        rows = [row for sites, _, _ in graphs for row in _rows(sites, flops)]
        rows += _uncaptured(rows, called, sum(dead for _, _, dead in graphs))
        if not graphs:
            notes.append("torch.compile captured nothing of this model: it trains unchanged")
        fused = [row for row in rows if row["decision"] == "fused"]
        totals = {
            "sites": len(rows),
            "fused": len(fused),
            "left": len(rows) - len(fused),
            "dead": sum(dead for _, _, dead in graphs),
            "frames": len(graphs),
            "graph_breaks": breaks,
            "flops_share": sum(row["flops_share"] for row in fused),
            "saving": sum(row["saving"] for row in fused),
        }
        return Report(rows, totals, options, converted, notes)

    def to_dict(self) -> dict[str, Any]:
        """Rows, totals and notes, of plain Python values."""
        return {
            "sites": [dict(row) for row in self.sites],
            "totals": dict(self.totals),
            "converted": self.converted,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [_cells(row) for row in self.sites]
        table = _rich_table(lines) if importlib.util.find_spec("rich") else _plain_table(lines)
        return "\n".join([table.rstrip(), *self._footer()])

    __repr__ = __str__

    def _footer(self) -> list[str]:
        t = self.totals
        state = "converted" if self.converted else "not converted"
        return [
            f"{t['fused']} of {t['sites']} dropouts fused ({state}); {t['frames']} graphs, {t['graph_breaks']} breaks, "
            f"{t['dead']} dead dropouts",
            f"linears beside them: {t['flops_share']:.0%} of dense FLOPs; expected saving {t['saving']:.1%} of them",
            *(f"note: {note}" for note in self.notes),
        ]


def _rows(sites: list[Any], flops: int) -> list[dict[str, Any]]:
    """One row a site. Where two masks meet in one linear, the output's saves from what the input's left."""
    masked_in = {reader.linear.node: _number(site.p) for site in sites if site.fused for reader in site.readers}
    # A linear between two fused dropouts counts once: for the one on its input.
    rows = []
    for site in sites:
        share = saving = 0.0
        p = _number(site.p)
        for reader in site.readers if site.fused else ():
            part = _linear_flops(reader.linear) / flops if flops else 0.0
            share += part
            saving += part * (p or 0.0)
        for producer in site.producers if site.fused else ():
            part = _linear_flops(producer.linear) / flops if flops else 0.0
            kept = 1.0 - (masked_in.get(producer.linear.node) or 0.0)
            share += 0.0 if producer.linear.node in masked_in else part
            saving += part * kept * (p or 0.0)
        row = {
            "module": site.module, "class": site.letter, "shape": tuple(map(_hint, site.shape)), "p": p,
            "decision": "fused" if site.fused else "left", "how": site.how, "readers": _reader_count(site),
            "reason": site.reason, "flops_share": share, "saving": saving,
        }  # fmt: skip
        rows.append(row)
    return rows


def _uncaptured(rows: list[dict[str, Any]], called: Counter[str], dead: int) -> list[dict[str, Any]]:
    """Dropout modules that ran, but in no captured graph."""
    missing = Counter(called)
    missing.subtract(row["module"] for row in rows)
    return [
        {
            "module": name, "class": "G", "shape": None, "p": None, "decision": "left", "how": None, "readers": 0,
            "reason": "torch.compile did not capture the frame that calls it; it runs as it is there",
            "flops_share": 0.0, "saving": 0.0,
        }
        for name, count in missing.items()
        for _ in range(count)
    ]  # fmt: skip


def _reader_count(site: Any) -> int:
    return len(site.readers) + len(site.others) if site.fused else len(site.node.users)


def _linear_flops(linear: Any) -> int:
    out, weight = linear.node.meta["example_value"], linear.weight.meta["example_value"]
    rows = math.prod(_hint(size) for size in out.shape) // max(_hint(out.shape[-1]), 1)
    if linear.flat is not None:
        rows = math.prod(_hint(size) for size in linear.flat[0][:-1])
    return 2 * rows * math.prod(_hint(size) for size in weight.shape)


def _hint(size: Any) -> int:
    """A size of this run; 0 where it depends on data, and not even the compiler knows it."""
    return size if isinstance(size, int) else int(size.node.hint or 0)


def _number(p: Any) -> float | None:
    """A probability as a float, also where the graph gets it as an input."""
    if isinstance(p, fx.Node):
        p = p.meta.get("example_value")
        p = p.node.hint if isinstance(p, torch.SymFloat) else p
    return float(p) if isinstance(p, (int, float)) else None


def _cells(row: dict[str, Any]) -> list[str]:
    shape = "?" if row["shape"] is None else "×".join(map(str, row["shape"]))
    p = "?" if row["p"] is None else f"{row['p']:g}"
    share, saving = (f"{row[key]:.1%}" if row["decision"] == "fused" else "" for key in ("flops_share", "saving"))
    text = (row["module"] or "(root)", row["class"], shape, p, row["decision"], row["how"] or "", str(row["readers"]))
    return [*text, share, saving, row["reason"]]


_TITLES = ["module", "class", "shape", "p", "decision", "how", "readers", "FLOPs", "saving", "why"]


def _rich_table(lines: list[list[str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in _TITLES:
        table.add_column(title, overflow="fold")
    for line in lines:
        table.add_row(*line)
    terminal = Console()
    out = Console(file=io.StringIO(), width=max(terminal.width, 120), force_terminal=False)
    out.print(table, markup=False)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def _plain_table(lines: list[list[str]]) -> str:
    cells = [_TITLES, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_TITLES) - 1)]
    return "\n".join("  ".join([*map(str.ljust, line, widths), line[-1]]).rstrip() for line in cells)

"""Writes measured tables into a README, and its plot: ``python -m torch_sparsedrop.bench.readme [--check]``.

Between ``<!-- results: NAME -->`` and ``<!-- end -->`` stands what the functions here make of the committed
results, so that no number is typed by hand. The results come from

    python -m torch_sparsedrop bench --preset readme --dtype float32 bfloat16 --what layer gemm memory overhead \\
        --p 0 0.1 0.2 0.3 0.5 0.7 0.9 --json examples/results/cpu.json
    python examples/demo/train.py --out examples/results
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cli.errors import UsageError
from . import plot
from .record import Record
from .rows import Row

SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN_P = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)


def layer(results: Path) -> str:
    """Forward + backward with SparseDrop and with dropout, as a share of F.linear's time."""
    record = Record.load_from(results / "cpu.json")
    rows = [row for row in record.rows if row.what == "layer" and row.phase == "forward+backward"]
    head = ["M × N × K", "dtype", "`F.linear`", "`F.dropout` + `F.linear`", *(f"SparseDrop p = {p:g}" for p in SHOWN_P)]
    lines = []
    for subject, dtype in dict.fromkeys((row.subject, row.dtype) for row in rows):
        case = [row for row in rows if (row.subject, row.dtype) == (subject, dtype)]
        ours = {row.p: row for row in case if row.side == "sparsedrop"}
        dense = _one(case, "dense", 0.5).seconds
        assert dense is not None
        dropout = _one(case, "dropout", 0.5).relative["dense"].median
        shares = [_bold_below_one(ours[p].relative["dense"].median) for p in SHOWN_P]
        lines.append([subject, dtype, f"{dense.median * 1e3:.1f} ms", f"{dropout:.2f}", *shares])
    return f"{_table(head, lines)}\n\n{record.machine()}."


def _bold_below_one(share: float) -> str:
    text = f"{share:.2f}"
    return f"**{text}**" if float(text) < 1 else text


def gemm(results: Path) -> str:
    """Kept-work efficiency of each product: the lowest and highest median over p up to 0.7."""
    record = Record.load_from(results / "cpu.json")
    rows = [row for row in record.rows if row.what == "gemm" and row.side == "sparsedrop" and (row.p or 0) <= 0.7]
    phases = list(dict.fromkeys(row.phase for row in rows))
    lines = []
    for subject, dtype, mask in dict.fromkeys((row.subject, row.dtype, row.mask) for row in rows):
        cells = []
        for phase in phases:
            key = subject, dtype, mask, phase
            found = [r.efficiency.median for r in rows if (r.subject, r.dtype, r.mask, r.phase) == key and r.efficiency]
            cells.append(f"{min(found):.2f}–{max(found):.2f}")
        lines.append([subject, dtype, mask, *cells])
    return _table(["M × N × K", "dtype", "mask on", *phases], lines)


def memory(results: Path) -> str:
    rows = [row for row in Record.load_from(results / "cpu.json").rows if row.what == "memory"]
    lines = []
    for subject, dtype in dict.fromkeys((row.subject, row.dtype) for row in rows):
        case = {row.side: row for row in rows if (row.subject, row.dtype) == (subject, dtype)}
        sizes = [f"{(case[side].peak_bytes or 0) / 2**20:.0f} MiB" for side in ("dense", "dropout", "sparsedrop")]
        lines.append([subject, dtype, *sizes])
    return _table(["M × N × K", "dtype", "`F.linear`", "`F.dropout` + `F.linear`", "SparseDrop"], lines)


def demo(results: Path) -> str:
    """What the demo found."""
    found = json.loads((results / "demo.json").read_text())
    head, *lines = found["table"]
    return f"{_table(head, lines)}\n\n{found['machine']}."


SECTIONS: dict[str, Callable[[Path], str]] = {"layer": layer, "gemm": gemm, "memory": memory, "demo": demo}


def fill(text: str, results: Path) -> str:
    """``text`` with every section made anew."""

    def section(match: re.Match[str]) -> str:
        name = match[2]
        if name not in SECTIONS:
            raise UsageError(f"no results are called {name!r}; there are {', '.join(SECTIONS)}")
        return f"{match[1]}{SECTIONS[name](results)}\n{match[3]}"

    return SECTION.sub(section, text)


def _one(rows: Sequence[Row], side: str, p: float) -> Row:
    return next(row for row in rows if row.side == side and row.p == p)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser("python -m torch_sparsedrop.bench.readme", description=fill.__doc__)
    parser.add_argument("readme", nargs="?", type=Path, default=Path("README.md"))
    parser.add_argument("--results", type=Path, default=Path("examples/results"))
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the file is not up to date")
    options = parser.parse_args()
    before = options.readme.read_text()
    after = fill(before, options.results)
    if options.check:
        return int(before != after)
    options.readme.write_text(after)
    plot.save(Record.load_from(options.results / "cpu.json"), options.results / "cpu.png", phases=["forward+backward"])
    return 0


if __name__ == "__main__":
    sys.exit(main())

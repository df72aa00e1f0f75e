"""Writes measured tables into a README, and its plots: ``python -m torch_sparsedrop.bench.readme [--check]``.

Between ``<!-- results: NAME FILE -->`` and ``<!-- end -->`` stands what the functions here make of the committed
results, FILE.json, so that no number is typed by hand. ``examples/results/README.md`` has the commands that made them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cli.errors import UsageError
from . import plot
from .record import Record
from .rows import Row
from .timing import GRAPH

SECTION = re.compile(r"(<!-- results: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN_P = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)


def layer(file: Path) -> str:
    """Forward + backward with SparseDrop and with dropout, as a share of F.linear's time."""
    return _layers(file, "forward+backward")


def graph(file: Path) -> str:
    """The same in a CUDA graph."""
    return _layers(file, "forward+backward" + GRAPH)


def _layers(file: Path, phase: str) -> str:
    rows, machine = _read(file, "layer", lambda row: (row.side, row.phase, row.mask) == ("sparsedrop", phase, "in"))
    rows = [row for row in rows if row.phase == phase and row.mask == "in"]
    ours = [row for row in rows if row.side == "sparsedrop"]
    shown = [p for p in SHOWN_P if any(row.p == p for row in ours)]
    compiled = any(row.side == "dropout compiled" for row in rows)
    head = ["M × N × K", "dtype", "`F.linear`", "`F.dropout` + `F.linear`", *["the same compiled"] * compiled]
    head += [f"SparseDrop p = {p:g}" for p in shown]
    lines = []
    for subject, dtype, kind in dict.fromkeys((row.subject, row.dtype, row.kind) for row in ours):
        case = [row for row in rows if (row.subject, row.dtype) == (subject, dtype)]
        others = [f"{_share(case, side):.2f}" for side in ("dropout", "dropout compiled")[: 1 + compiled]]
        mine = {row.p: row for row in case if row.side == "sparsedrop" and row.kind == kind}
        shares = [_bold_below_one(mine[p].relative["dense"].median) if p in mine else "–" for p in shown]
        name = f"{subject}, {kind}" if kind == "balanced" else subject
        lines.append([name, dtype, f"{_milliseconds(case, 'dense'):.3g} ms", *others, *shares])
    return f"{_table(head, lines)}\n\n{machine}."


def gemm(file: Path) -> str:
    """Kept-work efficiency of each product: the lowest and highest median over p up to 0.7 and the kinds of masks, and
    of the narrowed dense product."""
    found, _ = _read(file, "gemm")
    found = [row for row in found if row.efficiency and row.p is not None and row.p <= 0.7]
    rows, narrowed = ([row for row in found if row.side == side] for side in ("sparsedrop", "narrowed"))
    phases = list(dict.fromkeys(row.phase for row in rows))
    lines = []
    for subject, dtype, mask in dict.fromkeys((row.subject, row.dtype, row.mask) for row in rows):
        cells = []
        for phase in phases:
            key = subject, dtype, mask, phase
            ours, theirs = _range(rows, key), _range(narrowed, key)
            cells.append(f"{ours} ({theirs})" if narrowed else ours)
        lines.append([subject, dtype, mask, *cells])
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row.kind, set()).add(f"{row.p:g}")
    masks = "; ".join(f"{kind} masks at p = {', '.join(sorted(at))}" for kind, at in kinds.items())
    table = _table(["M × N × K", "dtype", "mask on", *phases], lines)
    beside = ", and in brackets of `F.linear` narrowed to the kept work, p = 0 left out" if narrowed else ""
    return f"Lowest to highest median over {masks}{beside}:\n\n{table}"


def _range(rows: Sequence[Row], key: tuple[str, str, str, str]) -> str:
    found = [r.efficiency.median for r in rows if (r.subject, r.dtype, r.mask, r.phase) == key and r.efficiency]
    return f"{min(found):.2f}–{max(found):.2f}" if found else "–"


def memory(file: Path) -> str:
    rows, _ = _read(file, "memory")
    lines = []
    for subject, dtype in dict.fromkeys((row.subject, row.dtype) for row in rows):
        case = {row.side: row for row in rows if (row.subject, row.dtype) == (subject, dtype)}
        sizes = [_mib(case[side]) for side in ("dense", "dropout", "sparsedrop")]
        lines.append([subject, dtype, *sizes])
    return _table(["M × N × K", "dtype", "`F.linear`", "`F.dropout` + `F.linear`", "SparseDrop"], lines)


def mlp(file: Path) -> str:
    """A block's time, and SparseDrop's as a share of the others'."""
    rows, machine = _read(file, "mlp", _is_converted)
    head = ["block", "dtype", "p", "no dropout", "own dropout", "SparseDrop", "of no dropout", "of own dropout",
            "of narrowed"]  # fmt: skip
    lines = []
    for row in rows:
        if not _is_converted(row):
            continue
        case = [r for r in rows if (r.subject, r.dtype, r.phase) == (row.subject, row.dtype, row.phase)]
        times = [f"{_milliseconds(case, side, row.p):.3g} ms" for side in ("none", "dropout", "converted")]
        shares = [_bold_below_one(row.relative[base].median) for base in ("none", "dropout", "narrowed")]
        lines.append([row.subject, row.dtype, f"{row.p:g}", *times, *shares])
    return f"{_table(head, lines)}\n\n{machine}."


def model(file: Path) -> str:
    """A step's time and peak memory, and SparseDrop's share of the time with the model's own dropout."""
    rows, machine = _read(file, "model", _is_converted)
    head = ["model", "p", "own dropout", "no dropout", "dropout only where SparseDrop leaves it", "SparseDrop",
            "of own dropout", "peak memory: own → SparseDrop"]  # fmt: skip
    lines = []
    for row in rows:
        if not _is_converted(row):
            continue
        case = [r for r in rows if (r.subject, r.dtype, r.phase) == (row.subject, row.dtype, row.phase)]
        sides = ("dropout", "none", "elsewhere", "converted")
        times = [f"{_milliseconds(case, side, row.p):.3g} ms" for side in sides]
        own = next(r for r in case if r.side == "dropout" and r.p == row.p)
        share = _bold_below_one(row.relative["dropout"].median)
        lines.append([row.subject, f"{row.p:g}", *times, share, f"{_mib(own)} → {_mib(row)}"])
    return f"{_table(head, lines)}\n\n{machine}."


def overhead(file: Path) -> str:
    """The host's microseconds for a call on a tiny matrix."""
    rows, _ = _read(file, "overhead")
    sides = ("dense", "dropout", "sparsedrop")
    lines = []
    for phase, dtype in dict.fromkeys((row.phase, row.dtype) for row in rows):
        case = [row for row in rows if (row.phase, row.dtype) == (phase, dtype)]
        lines.append([phase, dtype, *(f"{_milliseconds(case, side) * 1e3:.1f} µs" for side in sides)])
    return _table(["host's time of a call", "dtype", "`F.linear`", "`F.dropout` + `F.linear`", "SparseDrop"], lines)


def demo(file: Path) -> str:
    """What the demo found."""
    found = json.loads(file.read_text())
    head, *lines = found["table"]
    return f"{_table(head, lines)}\n\n{found['machine']}."


SECTIONS: dict[str, Callable[[Path], str]] = {
    "layer": layer,
    "graph": graph,
    "gemm": gemm,
    "memory": memory,
    "mlp": mlp,
    "model": model,
    "overhead": overhead,
    "demo": demo,
}
PLOTS = {
    "cpu.png": ("cpu.json", ["layer"], ["forward+backward"]),
    "h200.png": ("h200.json", ["layer"], ["forward+backward"]),
    "h200-models.png": ("h200.json", ["model"], ["forward+backward"]),
}


def fill(text: str, results: Path) -> str:
    """``text`` with every section made anew."""

    def section(match: re.Match[str]) -> str:
        name, file = match[2], results / f"{match[3]}.json"
        if name not in SECTIONS:
            raise UsageError(f"no results are called {name!r}; there are {', '.join(SECTIONS)}")
        return f"{match[1]}{SECTIONS[name](file)}\n{match[4]}"

    return SECTION.sub(section, text)


def _read(file: Path, what: str, shown: Callable[[Row], bool] = lambda row: True) -> tuple[list[Row], str]:
    """The rows of the runs in a file that have some to show, and what they were measured on."""
    runs = Record.load_from(file)
    runs = [run for run in runs if any(row.what == what and shown(row) for row in run.rows)]
    rows = [row for run in runs for row in run.rows if row.what == what]
    return rows, "; ".join(dict.fromkeys(run.machine() for run in runs))


def _is_converted(row: Row) -> bool:
    return row.side == "converted" and row.kind != "balanced"


def _own(rows: Sequence[Row], side: str, p: float | None) -> list[Row]:
    return [row for row in rows if row.side == side and (p is None or row.p in (None, p)) and row.kind != "balanced"]


def _milliseconds(rows: Sequence[Row], side: str, p: float | None = None) -> float:
    return statistics.median(row.seconds.median for row in _own(rows, side, p) if row.seconds) * 1e3


def _share(rows: Sequence[Row], side: str) -> float:
    """Of F.linear's time: at p = 0.5 where there is a choice."""
    own = _own(rows, side, None)
    chosen = [row for row in own if row.p == 0.5] or own
    return statistics.median(row.relative["dense"].median for row in chosen)


def _mib(row: Row) -> str:
    return f"{(row.peak_bytes or 0) / 2**20:.0f} MiB"


def _bold_below_one(share: float) -> str:
    text = f"{share:.2f}"
    return f"**{text}**" if float(text) < 1 else text


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
    for picture, (file, what, phases) in PLOTS.items():
        if (options.results / file).exists():
            plot.save(
                Record.load_from(options.results / file), options.results / picture, what=what, phases=phases
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

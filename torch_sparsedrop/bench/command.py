"""``bench``: the command itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cli.errors import UsageError, need
from ..masks import KINDS
from ..ops.checks import check_block
from . import record, report
from .rows import Row
from .settings import DTYPES, PRESETS, SIDES, Settings, Shape
from .timing import Timer, timer_for
from .workloads import WORKLOADS, Job

DEFAULT_P = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DEFAULT_WHAT = ("layer", "memory", "overhead")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="what SparseDrop gains on this machine",
        description="Times SparseDrop against F.linear with and without F.dropout. All sides take turns in one run; "
        "tables show the median and, in brackets, the quartiles.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--what", nargs="+", choices=sorted(WORKLOADS), default=DEFAULT_WHAT, metavar="WHAT",
        help="gemm: the kernels alone, with a ready plan; layer: draw and plan in each step; memory: peak of a step; "
        "overhead: calls on a tiny matrix (default: layer memory overhead)")  # fmt: skip
    add("--shape", action="append", type=shape, metavar="M,N,K", help="rows, outputs, inputs; may be repeated")
    add("--preset", choices=sorted(PRESETS), help="shapes by name (default: cube, 1024,1024,1024)")
    add("--p", nargs="+", type=probability, default=DEFAULT_P, metavar="P", help="(default: 0 to 0.9)")
    add("--dtype", nargs="+", choices=sorted(DTYPES), default=("float32",), metavar="DTYPE")
    add("--mask", nargs="+", choices=SIDES, metavar="SIDE",
        help="where the dropout is: in, out, both (default: in, and for gemm all three)")  # fmt: skip
    add("--block", type=block, default=(128, 128), metavar="ROWS,COLS", help="block of the mask (default: 128,128)")
    add("--kind", choices=KINDS, default="bernoulli")
    add("--masks", type=positive, default=20, metavar="N", help="timed rounds, a fresh mask in each (default: 20)")
    add("--warmup", type=positive, default=2, metavar="N", help="rounds before them (default: 2)")
    add("--threads", type=positive, default=torch.get_num_threads(), metavar="N")
    add("--device", default="cpu")
    add("--json", type=Path, metavar="FILE", help="write settings, machine and all rows")
    add("--png", type=Path, metavar="FILE", help="draw time, or for gemm efficiency, against p")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    tqdm = need("tqdm", "bench").tqdm
    if options.png:
        need("matplotlib", "--png")
    settings = settings_of(options)
    for path in filter(None, (options.json, options.png)):
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    result = record.Record.begin(settings)
    if result.load is not None and result.load > 0.5 * result.environment["cpu"]["cores"]:
        print(f"The system is busy (load {result.load}): expect noise.", file=sys.stderr)
    result.rows.extend(measure(settings, progress=tqdm))
    print(report.text(result))
    if options.json:
        result.save(options.json)
    if options.png:
        from . import plot

        plot.save(result, options.png)


def settings_of(options: argparse.Namespace) -> Settings:
    if options.shape and options.preset:
        raise UsageError("--shape and --preset exclude each other")
    shapes = options.shape or PRESETS[options.preset or "cube"]
    return Settings(
        what=tuple(dict.fromkeys(options.what)),
        shapes=tuple(shapes),
        p=tuple(sorted(set(options.p))),
        dtypes=tuple(options.dtype),
        mask=tuple(options.mask or ()),
        block=options.block,
        kind=options.kind,
        masks=options.masks,
        warmup=options.warmup,
        threads=options.threads,
        device=options.device,
    )


def measure(settings: Settings, *, timer: Timer | None = None, progress: Callable[..., Any] | None = None) -> list[Row]:
    """All rows. ``progress`` is tqdm, or made like it."""
    timer = timer or timer_for(settings.device)
    jobs = [job for what in settings.what for job in WORKLOADS[what](settings)]
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        return _run_all(jobs, timer, progress)
    finally:
        torch.set_num_threads(threads)


def _run_all(jobs: Sequence[Job], timer: Timer, progress: Callable[..., Any] | None) -> list[Row]:
    if progress is None:
        return [row for job in jobs for row in job.run(timer, lambda: None)]
    rows = []
    with progress(total=sum(job.ticks for job in jobs), unit=" rounds", leave=False) as bar:
        for job in jobs:
            bar.set_description(job.title)
            rows += job.run(timer, bar.update)
    return rows


def shape(text: str) -> Shape:
    return Shape(*_ints(text, 3, "M,N,K as in 1024,1024,1024"))


def block(text: str) -> tuple[int, int]:
    rows, cols = _ints(text if "," in text else f"{text},{text}", 2, "one size or ROWS,COLS as in 128,128")
    try:
        return check_block((rows, cols))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def probability(text: str) -> float:
    try:
        p = float(text)
    except ValueError:
        p = -1.0
    if not 0 <= p < 1:
        raise argparse.ArgumentTypeError(f"expected a probability from 0 to below 1, got {text!r}")
    return p


def positive(text: str) -> int:
    return _ints(text, 1, "a positive whole number")[0]


def _ints(text: str, count: int, expected: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != count or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return [int(part) for part in parts]

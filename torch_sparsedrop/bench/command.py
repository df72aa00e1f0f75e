"""``bench``: the command itself."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..cli.errors import UsageError, need
from ..masks import KINDS
from ..ops.checks import check_block
from ..options import SELECTIONS
from . import report
from .models import MODELS
from .record import Record
from .rows import Row
from .settings import DTYPES, PRESETS, SIDES, Settings, Shape
from .timing import Timer, timer_for
from .workloads import WORKLOADS, Job
from .workloads.mlp import BLOCKS
from .workloads.peers import PEERS

DEFAULT_P = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DEFAULT_P_MODEL = (0.1,)
DEFAULT_WHAT = ("layer", "memory", "overhead")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="what SparseDrop gains on this machine",
        description="Times SparseDrop against F.linear with and without F.dropout. All sides take turns in one run; "
        "tables show the median and, in brackets, the quartiles.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is measured").add_argument
    what("--what", nargs="+", choices=sorted(WORKLOADS), default=DEFAULT_WHAT, metavar="WHAT",
        help="gemm: the kernels alone, with a ready plan; layer: draw and plan in each step; "
        "draw: draw and plan alone; mlp: a transformer's MLP block, compiled; model: a model's step, compiled; "
        "memory: peak of a layer's step; overhead: the cost of a call (default: layer memory overhead)")  # fmt: skip
    what("--shape", action="append", type=shape, metavar="M,N,K",
        help="rows, outputs, inputs (mlp: rows, hidden, width); may be repeated")  # fmt: skip
    what("--preset", choices=sorted(PRESETS), help="shapes by name (default: cube, 1024,1024,1024)")
    what("--p", nargs="+", type=probability, metavar="P", help="(default: 0 to 0.9; with only models 0.1)")
    what("--dtype", nargs="+", choices=sorted(DTYPES), metavar="DTYPE",
        help="(default: float32, on a GPU bfloat16); models run under autocast")  # fmt: skip
    what("--mask", nargs="+", choices=SIDES, metavar="SIDE",
        help="where the dropout is: in, out, both (default: in, and for gemm all three)")  # fmt: skip
    what("--block", type=block, default=(128, 128), metavar="ROWS,COLS", help="block of the mask (default: 128,128)")
    what("--kind", nargs="+", choices=KINDS, default=("bernoulli",), metavar="KIND", help=" or ".join(KINDS))
    what("--peers", nargs="*", choices=sorted(PEERS), metavar="PEER",
        help="; ".join(f"'{name}': {text}" for name, text in PEERS.items())
        + " (default: on a GPU 'dropout compiled')")  # fmt: skip
    what(
        "--graph",
        action="store_true",
        help="layers as CUDA graphs of ten steps too; draws and blocks as such graphs only; models compiled with "
        "mode='reduce-overhead'",
    )
    what("--no-bias", dest="bias", action="store_false", help="layers without bias")
    what("--blocks", nargs="+", choices=sorted(BLOCKS), default=(), metavar="BLOCK", help="for mlp (default: all)")
    what("--models", nargs="+", choices=sorted(MODELS), default=(), metavar="MODEL",
        help=f"for model: {', '.join(MODELS)} (default: all)")  # fmt: skip
    what("--batch", type=positive, metavar="N", help="examples in a model's batch")
    what("--length", type=positive, metavar="N", help="tokens of an example")
    what("--small", action="store_true", help="two narrow layers of each model: to try the command")
    what("--optimizer", action="store_true", help="a model's step with AdamW's")
    what("--select", choices=SELECTIONS, default="profitable", help="convert's, for models")
    what("--inner", default="inductor", help="what compiles blocks and models, on all sides (default: inductor)")
    how = parser.add_argument_group("how").add_argument
    how("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")
    how("--masks", type=positive, default=20, metavar="N", help="timed rounds, a fresh mask in each (default: 20)")
    how("--warmup", type=positive, default=2, metavar="N", help="rounds before them (default: 2)")
    how("--threads", type=positive, default=torch.get_num_threads(), metavar="N")
    how("--budget", type=positive, metavar="SECONDS", help="begin nothing new after this time; keep what was measured")
    how("--tune", action="store_true",
        help="on a GPU first find the best tiles for these shapes, and keep them for all later runs")  # fmt: skip
    out = parser.add_argument_group("results").add_argument
    out("--json", type=Path, metavar="FILE", help="write settings, machine and rows, as they come")
    out("--append", action="store_true", help="to the runs that are in --json's file already")
    out("--png", type=Path, metavar="FILE", help="draw time, or for gemm efficiency, against p")
    out(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="for model: the kernels of a step of each side; made where it is not there",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    tqdm = need("tqdm", "bench").tqdm
    if options.png:
        need("matplotlib", "--png")
    settings = settings_of(options)
    timer = timer_for(settings.device)
    for path in filter(None, (options.json, options.png)):
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if options.profile:
        try:
            options.profile.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {options.profile}: {error.strerror}") from error
    before = Record.load_from(options.json) if options.append and options.json and options.json.exists() else []
    if options.tune:
        from . import tune

        print(tune.run(settings, timer, progress=tqdm))
    result = Record.begin(settings)
    if result.load is not None and result.load > 0.5 * result.environment["cpu"]["cores"]:
        print(f"The system is busy (load {result.load}): expect noise.", file=sys.stderr)

    def keep() -> None:
        if options.json:
            result.save(options.json, before)

    measure(result, timer=timer, progress=tqdm, keep=keep)
    print(report.text(result))
    if options.png:
        from . import plot

        plot.save([result], options.png)
    if result.left:
        raise UsageError("not measured:\n" + "\n".join(result.left))


def settings_of(options: argparse.Namespace) -> Settings:
    if options.shape and options.preset:
        raise UsageError("--shape and --preset exclude each other")
    if options.append and not options.json:
        raise UsageError("--append needs --json FILE")
    on_gpu = options.device.startswith("cuda")
    if not on_gpu and (options.graph or options.tune):
        raise UsageError(f"--graph and --tune are for CUDA devices, got --device {options.device}")
    if options.graph and "model" in options.what and options.inner != "inductor":
        raise UsageError(f"models in CUDA graphs need --inner inductor, got {options.inner}")
    default_p = DEFAULT_P_MODEL if set(options.what) <= {"model"} else DEFAULT_P
    peers = (("dropout compiled",) if on_gpu else ()) if options.peers is None else tuple(options.peers)
    return Settings(
        what=tuple(dict.fromkeys(options.what)),
        shapes=tuple(options.shape or PRESETS.get(options.preset, ())),
        p=tuple(sorted(set(options.p or default_p))),
        dtypes=tuple(options.dtype or (("bfloat16",) if on_gpu else ("float32",))),
        mask=tuple(options.mask or ()),
        block=options.block,
        kind=tuple(dict.fromkeys(options.kind)),
        masks=options.masks,
        warmup=options.warmup,
        threads=options.threads,
        device=options.device,
        graph=options.graph,
        bias=options.bias,
        peers=peers,
        blocks=tuple(options.blocks),
        models=tuple(options.models),
        batch=options.batch,
        length=options.length,
        small=options.small,
        optimizer=options.optimizer,
        select=options.select,
        inner=options.inner,
        budget=options.budget,
        profile=str(options.profile) if options.profile else None,
    )


def measure(
    result: Record,
    *,
    timer: Timer | None = None,
    progress: Callable[..., Any] | None = None,
    keep: Callable[[], None] = lambda: None,
    now: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Fills the record; ``keep`` is called whenever rows were added. ``progress`` is tqdm, or made like it.

    A job that fails, or that comes when the budget is spent, is named in ``left``, and the others go on.
    """
    settings, start = result.settings, now()
    timer = timer or timer_for(settings.device)
    jobs = [job for what in settings.what for job in WORKLOADS[what](settings)]
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    bar = progress(total=sum(job.ticks for job in jobs), unit=" rounds", leave=False) if progress else None
    try:
        for job in jobs:
            if bar:
                bar.set_description(job.title)
            if settings.budget is not None and now() - start > settings.budget:
                result.left.append(f"{job.title}: the budget of {settings.budget:g} s was spent")
                continue
            _measure_one(job, result, timer, bar.update if bar else lambda: None)
            keep()
    finally:
        torch.set_num_threads(threads)
        if bar:
            bar.close()
    keep()
    return result.rows


def _measure_one(job: Job, result: Record, timer: Timer, tick: Callable[[], object]) -> None:
    try:
        result.rows.extend(job.run(timer, tick))
    except UsageError as error:
        result.left.append(f"{job.title}: {error}")
    except Exception as error:
        result.left.append(f"{job.title}: {type(error).__name__}: {str(error)[:500]}")
        traceback.print_exc()


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

"""Figures 3 and 4 of the paper: forward + backward of one layer, and of the three models, against sparsity.

    python examples/paper/speed.py              both; writes out/paper/layers.json and models.json
    python examples/paper/speed.py layers       figure 3 alone

The same call goes through eager PyTorch, torch.compile and a CUDA graph; all methods take turns, with the timers of
`python -m torch_sparsedrop bench`. Models get random data: what they learn does not matter here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from data import Data
from layers import linear_for, set_p
from tasks import BLOCK, OURS, TASKS, Block, Task, UserError
from torch import Tensor, nn
from tqdm import tqdm
from training import Trainer

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.bench.rows import Row, timed_rows
from torch_sparsedrop.bench.timing import Side, Turn, captured, interleave, timer_for
from torch_sparsedrop.cli import machine

SHAPES = ((1024, 1024, 1024), (8192, 8192, 8192), (16384, 4096, 1024))
"""Rows, outputs and inputs of the single layers; the first is the paper's."""
HOW = ("eager", "compiled", "CUDA graph")
P = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
CALLS = 2
"""Steps timed together, after one that lets the host run ahead."""


class Ready(NamedTuple):
    """A method's forward + backward, its module, and the rows that its linear layers see."""

    call: Callable[[], object]
    module: nn.Module
    rows: int


def layer(sizes: tuple[int, int, int], block: Block, device: torch.device, method: str, compiled: bool) -> Ready:
    rows, outputs, inputs = sizes
    kind = {"device": device, "dtype": torch.bfloat16 if device.type == "cuda" else torch.float32}
    module = linear_for(method, block)(inputs, outputs).to(**kind)
    x, grad = torch.randn(rows, inputs, **kind, requires_grad=True), torch.randn(rows, outputs, **kind)
    set_p(module, 0.5)
    if compiled:
        module.compile(dynamic=False)
    return Ready(lambda: torch.autograd.grad(module(x), (x, module.weight), grad), module, rows)


def model(task: Task, block: Block, device: torch.device, method: str, compiled: bool) -> Ready:
    data = random_data(task, device)
    precision = "bf16" if device.type == "cuda" else "fp32"
    trainer = Trainer(task, method, block, data, precision, graph=False, compiled=compiled)
    trainer.index.copy_(torch.arange(task.batch))
    tokens = {"mlp": 1, "vit": 256, "gpt": 128}[task.model]
    return Ready(trainer.forward_backward, trainer.model, task.batch * tokens)


def random_data(task: Task, device: torch.device) -> Data:
    """One batch of the task's shape."""
    if task.data == "shakespeare":
        chunks = torch.randint(65, (task.batch, 128), device=device)
        return Data(chunks, chunks[:, 1:], task.batch, 65, "random")
    images = torch.rand(task.batch, 3 if task.data == "cifar10" else 1, 32, 32, device=device)
    return Data(images, torch.randint(10, (task.batch,), device=device), task.batch, 10, "random")


def kept(ready: Ready, p: float, turn: int) -> float:
    """Share of the multiply-adds, from masks as the timed calls draw them: from one seed, in this order."""
    torch.manual_seed(turn)
    layers = [one for one in ready.module.modules() if isinstance(one, sparsedrop.nn.DropoutLinear)]
    done: list[Tensor] = []
    for _ in range(1 + CALLS):
        for one in layers:
            sizes = ready.rows, one.in_features
            mask = sparsedrop.BlockMask.draw(*sizes, p, block=one.block, kind=one.kind, device=one.weight.device)
            done.append(one.weight.numel() * mask.density)
    torch.manual_seed(turn)
    timed = torch.stack(done[len(layers) :])
    return timed.sum().item() / CALLS / sum(one.weight.numel() for one in layers)


def sides(build: Callable[[str, bool], Ready], how: str, ps: Sequence[float]) -> Iterator[Side]:
    for method in ("dense", "dropout", *OURS):
        ready = build(method, how != "eager")
        call = captured(ready.call) if how == "CUDA graph" else ready.call
        if method not in OURS:
            # Dropout costs the same at every p.
            yield Side(method, lambda turn, call=call: Turn(call))
            continue
        for p in ps:
            if p > 0 or how != "eager":  # where nothing is compiled, p = 0 is the dense layer itself

                def prepare(turn: int, ready: Ready = ready, call: Callable[[], object] = call, p: float = p) -> Turn:
                    set_p(ready.module, p)
                    return Turn(call, kept(ready, p, turn))

                yield Side("sparsedrop", prepare, p, method)


def subjects(what: str, small: bool, device: torch.device) -> list[tuple[str, Callable[[str, bool], Ready]]]:
    """Titles, and what makes a method's call, compiled or not."""
    block = (16, 16) if small else BLOCK
    if what == "layers":
        shapes = ((64, 32, 64),) if small else SHAPES
        return [(" × ".join(map(str, sizes)), partial(layer, sizes, block, device)) for sizes in shapes]
    tasks = [TASKS[name].smoke() if small else TASKS[name] for name in ("mlp", "cifar10", "gpt")]
    return [(task.title, partial(model, task, block, device)) for task in tasks]


def measure(what: str, options: argparse.Namespace) -> list[Row]:
    device, rows = options.device, []
    cuda = device.type == "cuda"
    timer, dtype = timer_for(device.type), "bfloat16" if cuda else "float32"
    for subject, build in tqdm(subjects(what, options.smoke, device), desc=what):
        for how in HOW if cuda else HOW[:1]:
            taking_part = list(sides(build, how, options.p))
            samples = interleave(taking_part, timer, rounds=options.rounds, warmup=2, calls=CALLS, clock="step")
            rows += timed_rows(samples, what=what, subject=subject, dtype=dtype, phase=how)
            torch._dynamo.reset()
    return rows


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("what", nargs="*", metavar="layers|models", help="default: both")
    parser.add_argument("--out", type=Path, default=Path("out/paper"), help="folder (default: out/paper)")
    parser.add_argument("--device", type=torch.device, default=torch.device(device))
    parser.add_argument("--p", nargs="+", type=float, default=P)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it works")
    options = parser.parse_args(given)
    try:
        if not set(options.what) <= {"layers", "models"}:
            raise UserError(f"layers and models can be measured, got {' '.join(options.what)}")
        if not all(0 <= p < 1 for p in options.p):
            raise UserError(f"--p must be from 0 to below 1, got {options.p}")
        if options.device.type != "cuda" and not options.smoke:
            raise UserError("needs a GPU, or --smoke")
        for what in options.what or ("layers", "models"):
            place = machine.line(options.device.type) + ("; tiny sizes" if options.smoke else "")
            found = {"machine": place, "rows": list(map(plain, measure(what, options)))}
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"{what}.json").write_text(dumps(found))
    except UserError as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    return 0


def plain(row: Row) -> dict[str, object]:
    """What the figures show: the quartiles of the times, and what was kept."""
    found = {key: value for key, value in row.to_json().items() if key not in ("relative", "efficiency")}
    seconds = {name: round(value, 7) for name, value in found["seconds"].items()}
    return found | {"kept": round(found["kept"], 4), "seconds": seconds}


def dumps(found: dict[str, object]) -> str:
    """JSON with a row per line."""
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in found["rows"])
    return f'{{\n "machine": {json.dumps(found["machine"])},\n "rows": [\n{rows}\n ]\n}}\n'


if __name__ == "__main__":
    sys.exit(main())

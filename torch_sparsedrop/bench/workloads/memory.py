"""Peak memory of forward + backward beyond the inputs.

On a GPU PyTorch's own count. On the CPU as the operating system counts it: kernels may allocate what PyTorch does not
see, so the process itself is measured, and each side runs once in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from ...cli.errors import UsageError
from ..rows import Row
from ..settings import PRESETS, Settings, Shape
from ..timing import Timer
from . import layer
from .job import Job
from .operands import Operands

SIDES = ("dense", "dropout", "sparsedrop")


def jobs(settings: Settings) -> list[Job]:
    if not settings.gpu and not Path("/proc/self/status").exists():
        raise UsageError("--what memory reads /proc/self/status, which this system does not have")
    cases = product(settings.dtypes, settings.shapes_or(*PRESETS["cube"]), settings.masks_or("in"))
    return [MemoryJob(settings, *case) for case in cases]


@dataclass(frozen=True)
class MemoryJob:
    settings: Settings
    dtype: str
    shape: Shape
    mask: str

    @property
    def title(self) -> str:
        return f"memory {self.shape} {self.dtype} {self.mask}"

    @property
    def ticks(self) -> int:
        return len(SIDES)

    def run(self, timer: Timer, tick: Callable[[], object]) -> list[Row]:
        p = self.settings.middle_p
        peak_of = _on_gpu if self.settings.gpu else _in_a_process
        rows = []
        for side in SIDES:
            peak = peak_of(self.settings, self.shape, self.dtype, self.mask, p, side)
            rows.append(
                Row("memory", str(self.shape), self.dtype, "forward+backward", side, self.mask, p, peak_bytes=peak)
            )
            tick()
        return rows


def _on_gpu(settings: Settings, shape: Shape, dtype: str, mask: str, p: float, side: str) -> int:
    on = Operands.make(shape, dtype, settings.device, requires_grad=True, bias=settings.bias)
    one = layer.layers(settings, shape, mask, p)[side]
    peaks = []
    for _ in range(3):  # the first ones may also allocate what stays, as cuBLAS's workspaces
        torch.cuda.synchronize(settings.device)
        torch.cuda.reset_peak_memory_stats(settings.device)
        before = torch.cuda.memory_allocated(settings.device)
        layer.step(one, on, "forward+backward")
        peaks.append(torch.cuda.max_memory_allocated(settings.device) - before)
    return min(peaks)


def _in_a_process(settings: Settings, shape: Shape, dtype: str, mask: str, p: float, side: str) -> int:
    request = json.dumps([settings.to_json(), shape, dtype, mask, p, side])
    # A fixed threshold makes malloc return large blocks at once, so that the peak is what was live.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", f"from {__name__} import main; main()", request]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the memory measurement of {side} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def measure(settings: Settings, shape: Shape, dtype: str, mask: str, p: float, side: str) -> int:
    """Bytes at the peak of one step, beyond what was there before it. For a process that has done nothing else."""
    torch.set_num_threads(settings.threads)
    for sizes in (Shape(*settings.block, 16), shape):  # the small one loads code and starts threads
        on = Operands.make(sizes, dtype, settings.device, requires_grad=True, bias=settings.bias)
        one = layer.layers(settings, sizes, mask, p)[side]
        before = _restart_peak()
        layer.step(one, on, "forward+backward")
    return _status("VmHWM") - before


def _restart_peak() -> int:
    """Resident bytes now; from here on the peak counts anew, where the system allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main() -> None:
    """The process for one side."""
    settings, shape, *rest = json.loads(sys.argv[1])
    print(measure(Settings.from_json(settings), Shape(*shape), *rest))

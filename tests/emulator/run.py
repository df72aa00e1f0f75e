"""Random problems through the Hopper provider, on the emulated GPU that `libcuda.so.1` is here.

run.py FOLDER OF THE KERNEL'S SOURCES, MULTIPROCESSORS, THREAD BLOCKS SIDE BY SIDE, SIZES UP TO, ONE SIZE ABOUT (or 0),
SEEDS...
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from kernel_cases import compare_products, random_hopper_case

from torch_sparsedrop.providers.cuda import device, matmul
from torch_sparsedrop.providers.hopper import kernel, launch

SOURCES = Path(sys.argv[1])


def compiled(variant: kernel.Variant) -> bytes:
    """What the emulator's driver takes for machine code: the path of a library."""
    options = variant.options()
    name = "-".join(str(int(value)) for value in variant[1:])
    library = SOURCES / f"kernel{name}.so"
    if not library.exists():
        start = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC"]
        # Others may be about to do the same.
        own = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*start, *options, str(SOURCES / "kernel.cpp"), "-o", str(own)], check=True)
        own.replace(library)
    return str(library).encode() + b"\0"


def ready(spec: Any) -> launch.Launch:
    reason = launch._unfit(spec)
    if reason is not None:
        raise NotImplementedError(reason)
    made = launch.Launch(spec._replace(device=torch.device("cuda", 0)))
    pairs.add(made.pair)
    return made


def weight_grad(grad: torch.Tensor, x: torch.Tensor, *masks: Any) -> torch.Tensor:
    try:
        return matmul.weight_grad(grad, x, *masks)
    except NotImplementedError:
        # Where Triton serves on a GPU, the CPU does here.
        return torch.ops.sparsedrop.weight_grad(grad, x, *masks)


pairs: set[int] = set()
kernel.machine_code = compiled
launch._pair = lambda spec: int(sys.argv[3]) if spec.out is None else 1
matmul._launch = ready
device.multiprocessors = lambda _: int(sys.argv[2])
torch._C._cuda_getCurrentRawStream = lambda _: 0
# New tensors are full of NaN.
torch.use_deterministic_algorithms(True)
MOST, LONGEST = map(int, sys.argv[4:6])
for seed in map(int, sys.argv[6:]):
    case = random_hopper_case(seed, (torch.bfloat16,), "cpu", MOST, LONGEST or None)
    compare_products(case, matmul.linear, weight_grad)
    matmul.forget()
if int(sys.argv[3]) not in pairs:
    sys.exit("no thread blocks were side by side")

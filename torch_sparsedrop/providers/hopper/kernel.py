"""The kernel's variants: compiled, cached and loaded."""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
from typing import NamedTuple

import torch

from ..cuda.ready import host as host
from . import nvrtc

CAPABILITY = (9, 0)
# The shared memory of a multiprocessor that one thread block may have: the kernel uses all but a little.
SHARED_BYTES = 232448
NAME = "masked_matmul"
# As PTX and as the driver's tensor maps name them.
TYPES = {torch.bfloat16: ("bf16", 9), torch.float16: ("f16", 6)}


class Variant(NamedTuple):
    """``a_lines`` and ``b_lines``: rows in memory run along the operand's lines, not along the sum; ``transposed``: C
    lies in memory as (b, a); ``piece``: lines of B that one copy brings; ``pair``: thread blocks that
    fetch A together."""

    dtype: torch.dtype
    a_lines: bool
    b_lines: bool
    transposed: bool
    piece: int
    pair: int

    def options(self) -> list[str]:
        return [
            f"-DSPARSEDROP_A_LINES_FIRST={int(self.a_lines)}",
            f"-DSPARSEDROP_B_LINES_FIRST={int(self.b_lines)}",
            f"-DSPARSEDROP_TRANSPOSED={int(self.transposed)}",
            f"-DSPARSEDROP_PIECE={self.piece}",
            f"-DSPARSEDROP_PAIR={self.pair}",
            f'-DSPARSEDROP_TYPE="{TYPES[self.dtype][0]}"',
        ]


def why_not(capability: tuple[int, int], dtype: torch.dtype) -> str | None:
    """Why there is no kernel for a device and a dtype; None where there is one."""
    if torch.version.hip is not None or capability != CAPABILITY:
        return "the kernel is for NVIDIA GPUs of compute capability 9.0"
    if dtype not in TYPES:
        return f"no kernel for {str(dtype).removeprefix('torch.')}"
    if importlib.util.find_spec("torch_sparsedrop._host") is None:
        return "the native part was not built"
    return nvrtc.why_not()


@functools.cache
def load(device: torch.device, variant: Variant) -> int:
    """The kernel's handle on ``device``, which must be the current one."""
    return int(host().load_kernel(machine_code(variant), NAME, SHARED_BYTES, device.index))


def machine_code(variant: Variant) -> bytes:
    source, headers = sources()
    return nvrtc.compiled(source, headers, variant.options())


@functools.cache
def sources() -> tuple[str, dict[str, str]]:
    """The kernel's text, and its headers' by name."""
    files = sorted(importlib.resources.files(f"{__package__}.source").iterdir(), key=lambda file: file.name)
    headers = {file.name: file.read_text() for file in files if file.name.endswith((".h", ".cuh"))}
    (source,) = (file.read_text() for file in files if file.name.endswith(".cu"))
    return source, headers

"""What the kernels need to know about a device, asked once."""

from __future__ import annotations

import functools
import importlib.util

import torch

OLDEST = (8, 0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def why_not(index: int) -> str | None:
    """Why these kernels do not serve CUDA device ``index``; None where they do."""
    if torch.version.hip is not None:
        return "the kernels are written for NVIDIA GPUs"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    have = torch.cuda.get_device_capability(index)
    if have < OLDEST:
        return f"compute capability {have[0]}.{have[1]} is below {OLDEST[0]}.{OLDEST[1]}"
    return None


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability; a CPU interprets the kernels as a Hopper GPU would run them."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def tf32() -> bool:
    """Whether float32 products may use TF32, as `torch.nn.functional.linear` asks."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"

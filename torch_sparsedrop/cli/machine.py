"""What runs here: versions, commit, CPU and GPUs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import torch_sparsedrop

from ..providers.triton import tuned


def versions() -> dict[str, str | None]:
    return {
        "torch_sparsedrop": torch_sparsedrop.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "triton": _installed("triton"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def cpu() -> dict[str, Any]:
    return {
        "model": _cpu_model(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
    }


def gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "memory_gib": round(gpu.total_memory / 2**30, 1),
            "multiprocessors": gpu.multi_processor_count,
        }
        for gpu in found
    ]


def describe() -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {"versions": versions(), "cpu": cpu(), "gpus": gpus(), "tuned": tuned.describe()}


def line(device: str, threads: int | None = None, found: dict[str, Any] | None = None) -> str:
    """What was measured on, in one line; ``found`` as `describe` gave it."""
    found = found or describe()
    versions = found["versions"]
    if device.startswith("cuda"):
        name = found["gpus"][0]["name"]
    else:
        name = f"{found['cpu']['model']}, {threads or found['cpu']['threads']} threads"
    commit = f", commit {versions['commit']}" if versions["commit"] else ""
    return f"{name}, PyTorch {versions['torch']}, torch_sparsedrop {versions['torch_sparsedrop']}{commit}"


def commit() -> str | None:
    """The commit of a source checkout, marked where files differ from it; None for an installed copy."""
    root = Path(torch_sparsedrop.__file__).resolve().parents[1]
    # An environment may lie inside a repository of the user's own.
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""The provider for CPUs: compiled kernels, where the installation could build them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from .status import Status

NAME = "cpu"

_PACKAGE = __name__.split(".")[0]


def _find(name: str) -> Path | None:
    """A file of the package, wherever an editable installation keeps it."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, name)).exists():
            return path
    return None


def _load() -> str | None:
    """Loads the kernels; says why there are none."""
    library = _find("_kernels.so")
    if library is None:
        return str(build_report().get("reason") or "the native part was not built")
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        return f"{library} does not load: {error}"
    return None


def status(device: torch.device, dtype: torch.dtype) -> Status | None:
    """Every dtype on the CPU, where the compiled kernels are there."""
    if device.type != "cpu":
        return None
    if missing is not None:
        return Status(False, missing)
    return Status(True, f"compiled C++ kernels, {instruction_sets()['chosen']}")


def build_report() -> dict[str, Any]:
    """What the build wrote down: compiler, torch, instruction sets, or the reason of its failure."""
    path = _find("_build.json")
    return json.loads(path.read_text()) if path else {}


def instruction_sets() -> dict[str, Any]:
    """Those compiled in, those that this CPU supports, and the one in use."""
    if missing is not None:
        return {}
    host = importlib.import_module(f"{_PACKAGE}._host")
    return dict(host.cpu())


missing: str | None = _load()
"""Why the compiled kernels do not serve; None where they do."""

"""Errors that the user can cure, shown without a traceback."""

from __future__ import annotations

import importlib
from typing import Any


class UsageError(Exception):
    """Something in what the user asked for, said in one line."""


def need(module: str, purpose: str, extra: str = "torch_sparsedrop[bench]") -> Any:
    """An optional dependency, or an error that names the command which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        what = "is not installed" if error.name in (None, package) else f"does not import: {error}"
        raise UsageError(f"{purpose} needs {package}, which {what}: pip install '{extra}'") from error

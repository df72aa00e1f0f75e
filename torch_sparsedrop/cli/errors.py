"""Errors that the user can cure, shown without a traceback."""

from __future__ import annotations

import importlib
from typing import Any


class UsageError(Exception):
    """Something in what the user asked for, said in one line."""


def need(module: str, purpose: str) -> Any:
    """An optional dependency, or an error that names the command which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(
            f"{purpose} needs {package}, which is not installed: pip install 'torch_sparsedrop[bench]'"
        ) from error

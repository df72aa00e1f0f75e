"""Where this machine's compiled kernels and tuned tiles are kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """One user's; the environment variable SPARSEDROP_CACHE moves it."""
    chosen = os.environ.get("SPARSEDROP_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch_sparsedrop")
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir(), f"torch_sparsedrop_{os.getuid()}")

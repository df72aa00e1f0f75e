"""Launches that wait for nothing but addresses, and the native part that starts them."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import cpu

NATIVE = cpu.missing is None
"""Whether calls like earlier ones are started by the native part, and Python sees only the first of each kind."""

# Where a launch looks for the address of each tensor.
A, B, C, BIAS, SCALE_1, SCALE_2, WALK_A, WALK_B, OUT, WORKSPACE = range(10)


@functools.cache
def host() -> Any:
    """The native module, which starts kernels and knows their sizes."""
    return importlib.import_module("torch_sparsedrop._host")


class Ready:
    """Kernels that are started one after another, on the same ten addresses."""

    # Whether a call copies what it was given before it starts the kernels.
    copies = False

    def __init__(self, launches: Sequence[Any] = (), workspace_bytes: int = 0) -> None:
        self.launches = launches
        self.workspace_bytes = workspace_bytes

    def start(self, a: Tensor, *rest: Tensor | None) -> None:
        """On a, b, c, bias, both scales, both walks and the output's mask."""
        size = self.workspace_bytes
        workspace = torch.empty(size, dtype=torch.uint8, device=a.device) if size else None
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (a, *rest, workspace)]
        stream = torch._C._cuda_getCurrentRawStream(a.device.index)
        for launch in self.launches:
            launch(stream, addresses)


_NOTHING = torch.empty(0, dtype=torch.uint8, device="cpu")


def packed(ready: Ready | None) -> Tensor:
    """What the native part needs to start calls of this kind itself: nothing where it cannot."""
    if ready is None or not ready.launches:
        return _NOTHING
    return _bytes(host().packed(ready.launches, ready.workspace_bytes))


def failed(error: Exception) -> list[Tensor]:
    """In the place of all results: why there are none."""
    return [_bytes(str(error).encode() or type(error).__name__.encode())]


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


_told: set[str] = set()


def tell(text: str) -> None:
    """Once for each text: another kernel or way serves than could be expected."""
    if text not in _told:
        _told.add(text)
        warnings.warn(f"torch_sparsedrop: {text}", stacklevel=2)

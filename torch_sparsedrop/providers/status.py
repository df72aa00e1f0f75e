"""What a provider says about itself, and the table made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from ..ops.checks import FLOATS


class Status(NamedTuple):
    """Whether a provider serves a dtype on a device here; with what, or why not."""

    serves: bool
    note: str


class Provider(Protocol):
    """A module of this package."""

    NAME: str

    def status(self, device: torch.device, dtype: torch.dtype) -> Status | None:
        """None where the provider has nothing to do with such a device."""


class Row(NamedTuple):
    device: str
    dtype: str
    provider: str | None
    note: str


def table(providers: Sequence[Provider]) -> list[Row]:
    """Who serves each dtype on each device here. ``providers``: best first."""
    rows = [_row(providers, device, dtype) for device in _devices() for dtype in FLOATS]
    return rows if torch.cuda.is_available() else [*rows, Row("cuda", "any", None, _why_no_gpu())]


def _row(providers: Sequence[Provider], device: torch.device, dtype: torch.dtype) -> Row:
    name = str(dtype).removeprefix("torch.")
    refusals: list[str] = []
    for provider in providers:
        status = provider.status(device, dtype)
        if status is None:
            continue
        if status.serves:
            return Row(str(device), name, provider.NAME, "; ".join([status.note, *refusals]))
        refusals.append(f"not {provider.NAME}: {status.note}")
    return Row(str(device), name, None, "; ".join(refusals))


def _devices() -> list[torch.device]:
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in gpus)]


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    return f"PyTorch is built for CUDA {torch.version.cuda}, but finds no GPU"

"""Who computes, one module for each kind of kernel: the dispatcher picks by device, the reference serves the rest."""

from __future__ import annotations

from . import cpu, cuda, hopper, reference, triton
from .status import Provider, Row, Status, table

__all__ = ["Provider", "Row", "Status", "cpu", "cuda", "hopper", "reference", "serving", "triton"]

BEST_FIRST: tuple[Provider, ...] = (cpu, hopper, triton, reference)


def serving() -> list[Row]:
    """Who serves each dtype on each device of this machine, and why a better provider does not."""
    return table(BEST_FIRST)

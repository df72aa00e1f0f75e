"""Who computes, one module for each kind of kernel: the dispatcher picks by device, the reference serves the rest."""

from . import cpu, reference, triton

__all__ = ["cpu", "reference", "triton"]

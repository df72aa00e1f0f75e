"""Who computes, one module for each kind of kernel: the dispatcher picks by device, the reference serves the rest."""

from . import cpu, reference

__all__ = ["cpu", "reference"]

"""Who computes, one module for each kind of kernel: the dispatcher picks by device, the reference serves the rest."""

from . import reference, triton

__all__ = ["reference", "triton"]

"""Who computes: one module for each kind of kernel. The dispatcher picks by device; the reference serves what is left."""

from . import reference

__all__ = ["reference"]

"""The custom ops: schemas, fakes, derivatives, autocast, vmap and FLOP counts. Providers supply the kernels."""

from . import autocast, autograd, fakes, flops, vmap
from .schema import REVISION

__all__ = ["REVISION", "autocast", "autograd", "fakes", "flops", "vmap"]

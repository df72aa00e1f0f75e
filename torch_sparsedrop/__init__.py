"""Structured block dropout fused with the linear layers around it."""

from importlib.metadata import version as _version

from . import nn, ops, providers, reference
from .convert import convert, revert
from .explain import explain
from .functional import dropout_linear, linear, linear_dropout
from .masks import BlockMask

__version__ = _version("torch_sparsedrop")

__all__ = [
    "BlockMask",
    "convert",
    "dropout_linear",
    "explain",
    "linear",
    "linear_dropout",
    "nn",
    "ops",
    "providers",
    "reference",
    "revert",
]

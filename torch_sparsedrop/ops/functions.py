"""The functions that `sparsedrop::activate` knows, by number, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_aten = torch.ops.aten


class Function(NamedTuple):
    name: str
    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]


def _silu_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """What PyTorch has as one op cannot be derived again."""
    s = x.sigmoid()
    return grad * s * (1 + x * (1 - s))


# The first one's derivative is read off its result, the others' off what they are functions of.
RELU = 0
FUNCTIONS = (
    Function("relu", F.relu, lambda grad, y: _aten.threshold_backward(grad, y, 0)),
    Function("gelu", F.gelu, lambda grad, x: _aten.gelu_backward(grad, x)),
    Function(
        "gelu_tanh",
        lambda x: F.gelu(x, approximate="tanh"),
        lambda grad, x: _aten.gelu_backward(grad, x, approximate="tanh"),
    ),
    Function("silu", F.silu, _silu_gradient),
)
NUMBERS = {function.name: number for number, function in enumerate(FUNCTIONS)}

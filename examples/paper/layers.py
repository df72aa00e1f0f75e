"""One linear layer, four ways: what the paper puts in place of every linear layer of a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tasks import METHODS, Block, UserError
from torch import Tensor, nn
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop

MakeLinear = Callable[[int, int], nn.Module]


class Dropout(nn.Linear):
    """Dropout on the input, then a linear layer without bias.

    Compiled, p is read from a buffer, as in `sparsedrop.nn`, so that one compiled step serves every p; the compiler
    makes the same kernel of it as of `F.dropout`, which reads p as a number.
    """

    buffer: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.register_buffer("buffer", torch.zeros(()), persistent=False)
        self.p = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.compiler.is_compiling():
            keep = torch.rand_like(x, dtype=torch.float32) >= self.buffer
            x = torch.where(keep, x / (1 - self.buffer), 0).to(x.dtype)
        elif self.training:
            x = F.dropout(x, self.p)
        return F.linear(x, self.weight)


def linear_for(method: str, block: Block | None) -> MakeLinear:
    """What makes a layer from its numbers of inputs and outputs."""
    if method == "dense":
        return lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
    if method == "dropout":
        return Dropout
    if method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    return lambda inputs, outputs: sparsedrop.nn.DropoutLinear(inputs, outputs, bias=False, block=block, kind=method)


def set_p(model: nn.Module, p: float) -> None:
    """Fills buffers: nothing is compiled or captured again."""
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.p = p
            layer.buffer.fill_(p)
        elif isinstance(layer, sparsedrop.nn.DropoutLinear):
            layer.p = p

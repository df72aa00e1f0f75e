"""Small models for the backend's tests, options that compile fast, and a backend that counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OPTIONS: dict[str, Any] = {"select": "all", "block": 16, "inner": "eager"}


class Net(nn.Module):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 128)
        self.fc2 = nn.Linear(128, 64)
        self.drop1 = nn.Dropout(p)
        self.drop2 = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(x)))))


class Gated(Net):
    """A mask repeated for each chunk."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        return x + F.linear(self.drop1(F.gelu(gate) * value), self.fc2.weight[:, :64])


class Residual(Net):
    """A dropout whose result is read by a linear and by others."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(x)
        return x + self.fc2(F.softplus(self.fc1(x)))


class Counter:
    """An inner backend that counts the graphs it gets."""

    def __init__(self) -> None:
        self.graphs: list[str] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs.append(str(module.graph))
        return module.forward

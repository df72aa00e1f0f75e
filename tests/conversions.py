"""What the tests of `convert` share: a model, options that compile fast, and how its dropout is told from PyTorch's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

FAST: dict[str, Any] = {"inner": "eager", "select": "all", "block": 16}


class MLP(nn.Module):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 128)
        self.drop1 = nn.Dropout(p)
        self.fc2 = nn.Linear(128, 64)
        self.drop2 = nn.Dropout(p)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(x)))))


def drops_blocks(y: Tensor, block: int = 16) -> bool:
    """Whether zeros come in whole blocks, some but not all."""
    rows = y.detach().reshape(-1, y.shape[-1])
    blocks = rows.unfold(0, block, block).unfold(1, block, block)
    zero = (blocks == 0).flatten(2)
    return bool((zero.all(2) == zero.any(2)).all() and zero.any() and not zero.all())

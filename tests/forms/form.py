"""What a form is: weights, a spelling that uses them, and what must be decided for each of its dropouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

K, N = 64, 48
P = 0.4


class Form(nn.Module):
    """Weights for a spelling, and the spelling."""

    def __init__(self, spell: Callable[[Form, Tensor], Any]) -> None:
        super().__init__()
        self.spell = spell
        self.w = nn.Parameter(torch.randn(N, K) / 8)
        self.v = nn.Parameter(torch.randn(K, N) / 8)
        self.b = nn.Parameter(torch.randn(N))
        self.c = nn.Parameter(torch.randn(K))
        self.fc1 = nn.Linear(K, N)
        self.fc2 = nn.Linear(N, K)
        self.wide = nn.Linear(K, 2 * N)
        self.normed = weight_norm(nn.Linear(K, N))
        self.heads = nn.Parameter(torch.randn(K, 3, 16) / 8)
        self.attention = nn.MultiheadAttention(K, 4, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(N)

    def forward(self, x: Tensor) -> Tensor:
        return self.spell(self, x)


FORMS: dict[str, tuple[Callable[[Form, Tensor], Any], list[tuple[str, str | None]]]] = {}


def form(*sites: tuple[str, str | None]) -> Any:
    def register(spell: Any) -> Any:
        FORMS[spell.__name__] = spell, list(sites)
        return spell

    return register


IN, OUT, BOTH = "drop_in", "drop_out", "drop_in+drop_out"

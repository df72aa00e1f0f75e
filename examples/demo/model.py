"""A character model after Bengio et al. (2003): the last characters, embedded, through three linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop


class CharacterModel(nn.Module):
    """Contexts (batch, context) of characters to logits (batch, characters) of the next one.

    Dropout follows both hidden layers. The subclasses say how it is done.
    """

    def __init__(self, characters: int, context: int, embedding: int, width: int, p: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, embedding)
        self.first = nn.Linear(context * embedding, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, characters)
        self.p = p

    def forward(self, text: Tensor) -> Tensor:
        x = self.embed(text).flatten(1)
        x = self.drop(F.gelu(self.first(x)))
        x = self.drop(F.gelu(self.second(x)))
        return self.last(x)

    def drop(self, x: Tensor) -> Tensor:
        return x

    def density(self) -> float:
        """The share of the hidden layers' blocks that the last step computed."""
        return 1.0


class WithDropout(CharacterModel):
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


class WithSparseDrop(CharacterModel):
    """What a layer drops is not read by the next one, and so it is not computed by the one before."""

    masks: tuple[sparsedrop.BlockMask, ...]

    def forward(self, text: Tensor) -> Tensor:
        if not self.training:
            return super().forward(text)
        x = self.embed(text).flatten(1)
        a, b = self.masks = self.draw(x), self.draw(x)
        # GELU keeps zeros; each mask scales where it enters the next layer.
        x = F.gelu(sparsedrop.linear(x, self.first.weight, self.first.bias, drop_out=a.with_scale(1.0)))
        x = F.gelu(sparsedrop.linear(x, self.second.weight, self.second.bias, drop_in=a, drop_out=b.with_scale(1.0)))
        return sparsedrop.linear(x, self.last.weight, self.last.bias, drop_in=b)

    def draw(self, x: Tensor) -> sparsedrop.BlockMask:
        """Blocks of 128 × 128, the same number in each row of blocks."""
        width = self.second.in_features
        return sparsedrop.BlockMask.draw(len(x), width, self.p, kind="balanced", device=x.device)

    def density(self) -> float:
        return torch.stack([mask.density for mask in self.masks]).mean().item()


WAYS = {"no dropout": CharacterModel, "F.dropout": WithDropout, "SparseDrop": WithSparseDrop}

"""The paper's three models. Every linear layer that it substitutes comes from ``linear``; none of those has a bias."""

from __future__ import annotations

import torch
from layers import MakeLinear
from tasks import Task
from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Images (B, C, 32, 32) to logits (B, 10); dropout also on the pixels."""

    def __init__(self, task: Task, shape: torch.Size, classes: int, linear: MakeLinear) -> None:
        super().__init__()
        self.classes = classes
        widths = [shape.numel(), *[task.width] * (task.layers + 1)]
        self.hidden = nn.ModuleList(map(linear, widths, widths[1:]))
        # 128 outputs, of which the classes are used.
        self.out = linear(task.width, 128)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.out(x)[:, : self.classes]


class Attention(nn.Module):
    """Causal in both models, as in the paper's code. ``fused``: one layer makes queries, keys and values."""

    def __init__(self, width: int, heads: int, linear: MakeLinear, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList([linear(width, 3 * width)] if fused else [linear(width, width) for _ in range(3)])
        self.out = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = [part for layer in self.qkv for part in layer(x).split(width, dim=-1)]
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """Attention and a GELU MLP, each added to its input; ViT's attention has no norm before it."""

    def __init__(self, task: Task, linear: MakeLinear, vit: bool) -> None:
        super().__init__()
        width = task.width
        self.before = nn.Identity() if vit else nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, task.heads, linear, fused=vit)
        self.norm = nn.LayerNorm(width, bias=vit)
        self.up = linear(width, 4 * width)
        self.down = linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.down(F.gelu(self.up(self.norm(x))))


class ViT(nn.Module):
    """Images (B, C, 32, 32), as 256 patches of 2 × 2 pixels, to logits (B, 10)."""

    def __init__(self, task: Task, shape: torch.Size, classes: int, linear: MakeLinear) -> None:
        super().__init__()
        self.embed = Tokens(shape, task.width)
        self.blocks = nn.ModuleList([Block(task, linear, vit=True) for _ in range(task.layers)])
        self.head = Head(task.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Tokens(nn.Module):
    """Images (B, C, H, W) to tokens (B, H·W/4, width), each with its position's vector."""

    def __init__(self, shape: torch.Size, width: int) -> None:
        super().__init__()
        pixels = shape[0] * 4
        self.embed = nn.Sequential(nn.LayerNorm(pixels), nn.Linear(pixels, width), nn.LayerNorm(width))
        self.positions = nn.Parameter(torch.empty(shape[1] * shape[2] // 4, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(patches(x)) + self.positions

    def reset_parameters(self) -> None:
        nn.init.normal_(self.positions)


class Head(nn.Module):
    """Tokens (B, T, width) to logits (B, classes), by their mean."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x).mean(dim=1))


def patches(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H·W/4, 4·C): squares of 8 × 8 patches, one after the other."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // 16, 8, 2, width // 16, 8, 2)
    return x.permute(0, 2, 5, 3, 6, 4, 7, 1).reshape(batch, height * width // 4, 4 * channels)


class GPT(nn.Module):
    """Characters (B, T) to logits (B, T - 1, characters) of each one's successor."""

    def __init__(self, task: Task, shape: torch.Size, classes: int, linear: MakeLinear) -> None:
        super().__init__()
        self.embed = Characters(shape[0], classes, task.width)
        self.blocks = nn.ModuleList([Block(task, linear, vit=False) for _ in range(task.layers)])
        self.head = Successors(task.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        # The last character goes through the layers too: a sequence stays 128 rows, one block.
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Characters(nn.Module):
    """Characters (B, T) to tokens (B, T, width), each with its position's vector."""

    def __init__(self, length: int, classes: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(classes, width)
        self.positions = nn.Embedding(length, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x) + self.positions.weight


class Successors(nn.Module):
    """Tokens (B, T, width) to logits (B, T - 1, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.out = nn.Linear(width, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))[:, :-1]


MODELS = {"mlp": MLP, "vit": ViT, "gpt": GPT}


def compile_parts(model: nn.Module) -> None:
    """Each block alone, so that equal blocks are compiled once, and what stands before and after them."""
    # Methods and tasks share the code of a block; one that ran uncompiled beside compiled ones would compare nothing.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    parts = [model] if isinstance(model, MLP) else [model.embed, *model.blocks, model.head]
    for part in parts:
        part.compile(dynamic=False)


def initialise(model: nn.Module, seed: int) -> None:
    """Fresh weights in place, the same for every method."""
    torch.manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

"""The ops by hand: a gated MLP whose hidden layer is dropped before it is computed.

    y = (s · M ⊙ (silu(x Wgᵀ) ⊙ x Wuᵀ)) Wdᵀ

One mask M serves all three products: what it drops is zero in both factors, so neither is computed there, and what is
zero is not read by the last. Each of the nine products of a training step does 1 − p of the work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop


class GatedMLP(nn.Module):
    def __init__(self, width: int, hidden: int, p: float, block: int = 128) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.p, self.block = p, block

    def forward(self, x: Tensor, mask: sparsedrop.BlockMask | None = None) -> Tensor:
        if not self.training:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        if mask is None:
            mask = self.draw(x)
        # The scale 1/(1 - p) must enter once: at the last layer.
        unscaled = mask.with_scale(1.0)
        gate = sparsedrop.linear(x, self.gate.weight, drop_out=unscaled)
        up = sparsedrop.linear(x, self.up.weight, drop_out=unscaled)
        return sparsedrop.linear(F.silu(gate) * up, self.down.weight, drop_in=mask)

    def draw(self, x: Tensor) -> sparsedrop.BlockMask:
        rows, hidden = x[..., 0].numel(), self.up.out_features
        return sparsedrop.BlockMask.draw(rows, hidden, self.p, block=self.block, kind="balanced", device=x.device)


class WithDropout(GatedMLP):
    """The same layer with ordinary dropout."""

    def forward(self, x: Tensor, mask: sparsedrop.BlockMask | None = None) -> Tensor:
        return self.down(F.dropout(F.silu(self.gate(x)) * self.up(x), self.p, self.training))


def by_hand(layer: GatedMLP, x: Tensor, mask: sparsedrop.BlockMask) -> Tensor:
    """What the layer must give, with the mask as ordinary numbers."""
    hidden = F.silu(layer.gate(x)) * layer.up(x)
    return layer.down(torch.where(mask.dense().view_as(hidden), hidden * mask.scale, 0))


def largest_error(layer: GatedMLP, x: Tensor) -> float:
    """Over output and all gradients, relative to the largest number."""
    mask = layer.draw(x)
    found = []
    for forward in (layer, lambda x, mask: by_hand(layer, x, mask)):
        own = x.clone().requires_grad_()
        y = forward(own, mask)
        found.append([y, *torch.autograd.grad(y.square().mean(), [own, *layer.parameters()])])
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*found, strict=True))


def milliseconds(step: Callable[[Tensor], Tensor], x: Tensor, repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        step(x).square().mean().backward()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:]) * 1e3


def main(rows: int = 1024, width: int = 512, hidden: int = 2048, block: int = 128, repeats: int = 10) -> float:
    torch.manual_seed(0)
    x = torch.randn(4, rows // 4, width)
    layer = GatedMLP(width, hidden, p=0.5, block=block)
    error = largest_error(layer, x)
    print(f"largest error against the mask multiplied in by hand: {error:.1e}")
    dropout = milliseconds(WithDropout(width, hidden, p=0.5), x, repeats)
    for p in (0.1, 0.3, 0.5):
        layer.p = p
        own = milliseconds(layer, x, repeats)
        print(f"p = {p}: {own:.1f} ms forward and backward, {own / dropout:.2f} of the layer with F.dropout")
    return error


if __name__ == "__main__":
    main()

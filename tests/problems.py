"""Random problems for the ops, and the error that arithmetic in their dtype explains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from torch_sparsedrop import BlockMask, reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BLOCKS = (16, 17, 32, 48, 64, 128)
LAYOUTS = ("contiguous", "transposed", "strided", "expanded")


@dataclass
class Problem:
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    drop_in: BlockMask | None
    drop_out: BlockMask | None
    grad: Tensor

    @property
    def masks(self) -> dict[str, BlockMask | None]:
        return {"drop_in": self.drop_in, "drop_out": self.drop_out}

    def wide(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The operands in float64, as leaves."""
        return tuple(None if t is None else t.detach().double().requires_grad_() for t in self.operands())

    def operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.x, self.weight, self.bias

    def magnitudes(self) -> tuple[Tensor, list[Tensor | None]]:
        """What the result and the gradients would be if no two terms cancelled."""
        operands = [None if t is None else t.detach().double().abs().requires_grad_() for t in self.operands()]
        y = reference.linear(*operands, **self.masks)
        return y.detach(), gradients(y, operands, self.grad.double().abs())


def gradients(y: Tensor, operands, grad: Tensor) -> list[Tensor | None]:
    leaves = [t for t in operands if t is not None]
    found = iter(torch.autograd.grad(y, leaves, grad))
    return [None if t is None else next(found) for t in operands]


def lay_out(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    """Random values in memory as a caller might hold them."""
    if layout == "transposed" and len(shape) >= 2:
        return torch.randn(*shape[:-2], shape[-1], shape[-2]).to(dtype).transpose(-1, -2)
    if layout == "strided":
        return torch.randn(*shape[:-1], 2 * shape[-1] + 3).to(dtype)[..., 1 : 1 + 2 * shape[-1] : 2]
    if layout == "expanded" and len(shape) >= 2:
        return torch.randn(shape[-1]).to(dtype).expand(shape)
    return torch.randn(shape).to(dtype)


def assert_explained(actual: Tensor, expected: Tensor, magnitude: Tensor, terms: int) -> None:
    """``actual`` differs from the float64 result by no more than its dtype's rounding can explain.

    Summing n products in any order errs by at most n·u·Σ|terms|; the result is rounded once more.
    """
    assert actual.shape == expected.shape
    accumulator = torch.finfo(torch.float64 if actual.dtype == torch.float64 else torch.float32).eps
    bound = (terms + 4) * accumulator * magnitude + torch.finfo(actual.dtype).eps * expected.abs()
    bound = bound + torch.finfo(actual.dtype).smallest_normal
    error = (actual.double() - expected).abs()
    worst = (error - bound).max().item() if error.numel() else -1.0
    assert torch.isfinite(actual).all()
    assert worst <= 0, f"error exceeds the bound by {worst:.3g} (largest error {error.max():.3g})"


def draw_mask(rows: int, cols: int, block: tuple[int, int], p: float, kind: str) -> BlockMask:
    return BlockMask.draw(rows, cols, p, block=block, kind=kind)


@st.composite
def problems(draw, dtypes=DTYPES, largest=150) -> Problem:
    """Any shapes, blocks, masks, layouts and dtypes, ragged and empty ones included."""
    dtype = draw(st.sampled_from(dtypes))
    lead = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    m, n, k = (draw(st.integers(0, largest)) for _ in range(3))
    shape = (*lead, m) if draw(st.booleans()) else (m,)
    rows = torch.Size(shape).numel()
    torch.manual_seed(draw(st.integers(0, 2**31)))
    row_block, in_block, out_block = (draw(st.sampled_from(BLOCKS)) for _ in range(3))
    p = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    kind = draw(st.sampled_from(["bernoulli", "balanced"]))
    sides = draw(st.sampled_from(["in", "out", "both"]))
    layouts = [draw(st.sampled_from(LAYOUTS)) for _ in range(3)]
    return Problem(
        x=lay_out((*shape, k), layouts[0], dtype),
        weight=lay_out((n, k), layouts[1], dtype),
        bias=torch.randn(n).to(dtype) if draw(st.booleans()) else None,
        drop_in=draw_mask(rows, k, (row_block, in_block), p, kind) if sides != "out" else None,
        drop_out=draw_mask(rows, n, (row_block, out_block), p, kind) if sides != "in" else None,
        grad=lay_out((*shape, n), layouts[2], dtype),
    )

"""Random problems for the fused kernels, and the comparison with the reference on the same masks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torch_sparsedrop import BlockMask, reference

BLOCKS = (32, 64, 128, 256)
Op = Callable[..., Tensor]


@dataclass
class Case:
    """Y = s_out · M_out ⊙ (s_in · (M_in ⊙ X) Wᵀ + b) with X (m, k), W (n, k), and dY for the reduction."""

    m: int
    n: int
    k: int
    dtype: torch.dtype
    device: str
    block_in: tuple[int, int] | None = (32, 32)
    block_out: tuple[int, int] | None = None
    p: float = 0.4
    bias: bool = True
    layouts: tuple[str, ...] = ("plain", "plain", "plain")
    x: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x = self._matrix(self.m, self.k, self.layouts[0])
        self.weight = self._matrix(self.n, self.k, self.layouts[1])
        self.grad = self._matrix(self.m, self.n, self.layouts[2])
        self.b = torch.randn(self.n, device=self.device).to(self.dtype) if self.bias else None
        self.drop_in = self._mask(self.k, self.block_in)
        self.drop_out = self._mask(self.n, self.block_out)

    def _matrix(self, rows: int, cols: int, layout: str) -> Tensor:
        values = torch.randn(rows, cols, device=self.device).to(self.dtype)
        if layout == "transposed":
            return values.t().contiguous().t()
        if layout == "strided":
            wide = values.new_zeros(rows, 2 * cols + 1)
            wide[:, 1::2] = values
            return wide[:, 1::2]
        if layout == "shifted":
            longer = values.new_zeros(rows, cols + 1)
            longer[:, 1:] = values
            return longer[:, 1:]
        if layout == "expanded":
            return values[:1].expand(rows, cols)
        return values

    def _mask(self, cols: int, block: tuple[int, int] | None) -> BlockMask | None:
        if block is None:
            return None
        return BlockMask.draw(self.m, cols, self.p, block=block, device=self.device)

    def masks(self) -> tuple[object, ...]:
        into, out = self.drop_in, self.drop_out
        return (
            *((None, None, []) if into is None else (into.plan, into.scale, list(into.block))),
            *((None, None, []) if out is None else (out.plan, out.scale, list(out.block))),
            0,
        )

    def expected_linear(self) -> Tensor:
        bias = None if self.b is None else self.b.double()
        return reference.linear(
            self.x.double(), self.weight.double(), bias, drop_in=self.drop_in, drop_out=self.drop_out
        )

    def expected_weight_grad(self) -> Tensor:
        masks = []
        for mask in (self.drop_in, self.drop_out):
            masks += [None, None] if mask is None else [mask.dense(), mask.scale]
        return reference.masked_weight_grad(self.grad.double(), self.x.double(), *masks)


def tolerance(dtype: torch.dtype, terms: int, tf32: bool = False) -> float:
    """How far a result may be from the exact one, by norm: one rounding at the end, and float32 sums before it."""
    exact = 2.0**-11 if tf32 else torch.finfo(torch.float32).eps
    return torch.finfo(dtype).eps + 2 * exact * max(1, terms) ** 0.5


def assert_close(got: Tensor, expected: Tensor, terms: int, tf32: bool = False) -> None:
    bound = tolerance(got.dtype, terms, tf32)
    assert got.isfinite().all()
    error = (got.double() - expected).norm()
    assert error <= bound * expected.norm(), f"{float(error)} > {bound} · {float(expected.norm())}"
    worst = (got.double() - expected).abs().max() if got.numel() else error
    largest = expected.abs().max() if got.numel() else error
    assert worst <= 4 * bound * largest, f"{float(worst)} > 4 · {bound} · {float(largest)}"


def assert_zero_where_dropped(got: Tensor, mask: BlockMask | None) -> None:
    """Dropped elements are +0, bit for bit."""
    if mask is None:
        return
    dropped = got[~mask.dense()]
    assert not dropped.signbit().any()
    assert (dropped == 0).all()


def random_case(
    seed: int, dtypes: tuple[torch.dtype, ...], device: str, most: int, blocks: tuple[int, ...] = BLOCKS
) -> Case:
    """Ragged and aligned sizes up to ``most``, one mask, the other, both or none, all layouts."""
    rng = random.Random(seed)
    torch.manual_seed(seed)

    def size() -> int:
        return rng.choice([rng.randint(1, most), 16 * rng.randint(1, max(1, most // 16)), rng.randint(1, 24)])

    row = rng.choice(blocks)
    which = rng.choice(["in", "out", "both", "both", "none"])
    layouts = ("plain", "plain", "transposed", "strided", "shifted", "expanded")
    return Case(
        size(), size(), size(), rng.choice(dtypes), device,
        block_in=(row, rng.choice(blocks)) if which in ("in", "both") else None,
        block_out=(row, rng.choice(blocks)) if which in ("out", "both") else None,
        p=rng.choice([0.0, 0.1, 0.5, 0.8, 1.0]),
        bias=rng.random() < 0.5,
        layouts=(rng.choice(layouts), rng.choice(layouts), rng.choice(layouts)),
    )  # fmt: skip


def random_hopper_case(
    seed: int, dtypes: tuple[torch.dtype, ...], device: str, most: int = 1400, longest: int | None = None
) -> Case:
    """Sizes that the copy engine can read, blocks that the kernel takes, tensors in both orders. ``longest``: of one,
    so that its sum is divided."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sizes = [8 * rng.randint(16, most // 8) for _ in range(3)]
    if longest is not None:
        sizes[seed % 3] = 8 * rng.randint(longest // 16, longest // 8)
    m, n, k = sizes
    row = rng.choice((128, 128, 256, 384))
    which = rng.choice(("in", "out", "both", "none"))
    return Case(
        m, n, k, rng.choice(dtypes), device,
        block_in=(row, rng.choice((64, 128, 128, 192, 256))) if which in ("in", "both") else None,
        block_out=(row, rng.choice((64, 128, 128, 192, 256))) if which in ("out", "both") else None,
        p=rng.choice((0.0, 0.1, 0.5, 0.9, 1.0)),
        bias=rng.random() < 0.5,
        layouts=("plain", rng.choice(("plain", "transposed")), "plain"),
    )  # fmt: skip


def all_products(case: Case, linear: Op, weight_grad: Op) -> tuple[Tensor, ...]:
    """The forward product, the gradient of X and that of W."""
    plan_in, scale_in, block_in, plan_out, scale_out, block_out, revision = case.masks()
    exchanged = plan_out, scale_out, block_out, plan_in, scale_in, block_in, revision
    return (
        linear(case.x, case.weight, case.b, *case.masks()),
        linear(case.grad, case.weight.t(), None, *exchanged),
        weight_grad(case.grad, case.x, *case.masks()),
    )


def compare_products(case: Case, linear: Op, weight_grad: Op) -> None:
    """All three with the reference, and bit for bit with themselves."""
    y, dx, dw = all_products(case, linear, weight_grad)
    assert_close(y, case.expected_linear(), case.k)
    assert_close(dw, case.expected_weight_grad(), case.m)
    exchanged = Case.__new__(Case)
    exchanged.__dict__.update(
        case.__dict__, x=case.grad, weight=case.weight.t(), b=None, drop_in=case.drop_out, drop_out=case.drop_in
    )
    assert_close(dx, exchanged.expected_linear(), case.n)
    assert_zero_where_dropped(y, case.drop_out)
    assert_zero_where_dropped(dx, case.drop_in)
    for first, again in zip((y, dx, dw), all_products(case, linear, weight_grad), strict=True):
        assert torch.equal(first, again)

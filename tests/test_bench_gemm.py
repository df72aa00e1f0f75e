"""Workload of the kernels alone: what whole tiles allow, what narrowed products do, and which masks are measured."""

from __future__ import annotations

import pytest
import torch

from torch_sparsedrop import BlockMask
from torch_sparsedrop.__main__ import parser
from torch_sparsedrop.bench import command
from torch_sparsedrop.bench.settings import Shape
from torch_sparsedrop.bench.workloads import WORKLOADS, gemm
from torch_sparsedrop.bench.workloads.bound import quantisation_bound
from torch_sparsedrop.bench.workloads.job import TimedJob
from torch_sparsedrop.bench.workloads.operands import Masks, Operands


def test_bound_of_whole_tiles() -> None:
    shape = Shape(512, 512, 512)  # 4 rows of 2 tiles

    def masks(keep_in: list[list[int]] | None, keep_out: list[list[int]] | None) -> Masks:
        def one(keep: list[list[int]] | None) -> BlockMask | None:
            return None if keep is None else BlockMask.from_keep(torch.tensor(keep) > 0, 512, 512, block=(128, 128))

        return Masks(one(keep_in), one(keep_out))

    kept = masks([[1] * 4] * 4, None)
    assert quantisation_bound("forward", shape, kept, 8) == 1
    assert quantisation_bound("forward", shape, kept, 6) == pytest.approx(8 / 12)
    # One row of blocks is four times as long as the others: its two tiles outlast the rest.
    long = masks([[1] * 4] + [[1, 0, 0, 0]] * 3, None)
    assert quantisation_bound("forward", shape, long, 4) == pytest.approx((8 + 6) / 4 / 4)
    assert quantisation_bound("dw", shape, long, 4) == pytest.approx((8 + 6) / 4 / 4)
    # Of C 4, 2, 1 and 0 blocks are kept: two tiles, one, and half a one, each as long.
    out = masks(None, [[1] * 4, [1, 1, 0, 0], [1, 0, 0, 0], [0] * 4])
    assert quantisation_bound("forward", shape, out, 2) == pytest.approx(3.5 / 2 / 2)
    assert quantisation_bound("dx", shape, Masks(out.drop_out, None), 2) == pytest.approx(3.5 / 2 / 2)
    assert quantisation_bound("forward", shape, masks(None, [[0] * 4] * 4), 2) is None
    assert quantisation_bound("dw", shape, Masks(long.drop_in, out.drop_out), 2) is None


@pytest.mark.parametrize("phase", gemm.PRODUCTS)
@pytest.mark.parametrize("mask", ["in", "out", "both"])
def test_narrowed_products_do_the_kept_work(mask: str, phase: str) -> None:
    """As a mask does that keeps the first half of the columns, or for the weight's gradient of the rows."""
    on, masks = Operands.make(Shape(256, 384, 512), "float32", "cpu"), 2 if mask == "both" else 1
    narrow, share = gemm.narrowed(on, phase, mask, 0.5)
    assert share == 0.5**masks
    x, grad, weight = on.x, on.grad, on.weight
    if phase == "dw":
        x, grad = (t[: int(256 * share)] for t in (x, grad))
    elif mask in ("in", "both"):
        x, weight = x[:, :256], weight[:, :256]
    if phase != "dw" and mask in ("out", "both"):
        grad, weight = grad[:, :192], weight[:192]
    product = {"forward": lambda: x @ weight.t(), "dx": lambda: grad @ weight, "dw": lambda: grad.t() @ x}[phase]
    torch.testing.assert_close(gemm.PRODUCTS[phase](narrow, None), product())


def test_gemm_measures_all_places_of_the_mask_unless_told() -> None:
    def masks(*arguments: str) -> dict[str, set[str]]:
        chosen = command.settings_of(parser().parse_args(["bench", "--what", "gemm", "layer", *arguments]))
        jobs = [job for what in chosen.what for job in WORKLOADS[what](chosen)]
        found: dict[str, set[str]] = {}
        for job in jobs:
            assert isinstance(job, TimedJob)
            found.setdefault(job.key["what"], set()).add(job.key["mask"])
        return found

    assert masks() == {"gemm": {"in", "out", "both"}, "layer": {"in"}}
    assert masks("--mask", "out") == {"gemm": {"out"}, "layer": {"out"}}

"""Masks of one grid and probability, drawn at once: the op, and what the pass makes of a graph."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from capture import capture
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._inductor.utils import run_fw_bw_and_get_code
from torch.utils.checkpoint import checkpoint
from torch_sparsedrop.passes import SparseDropPass, graphs

from torch_sparsedrop.ops import packing
from torch_sparsedrop.ops.checks import flat_size
from torch_sparsedrop.ops.layout import layout

draw = torch.ops.sparsedrop.draw


@given(
    st.integers(0, 4), st.integers(0, 70), st.integers(0, 70), st.sampled_from([0.0, 0.3, 1.0]), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
def test_each_mask_is_the_one_drawn_alone(
    count: int, rows: int, cols: int, p: float, balanced: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    uniform, probability = torch.rand(flat_size(count * rows, cols + balanced)), torch.tensor(p)
    keeps, plans, scale = draw(uniform, probability, balanced, (count, rows, cols))
    size, blocks = layout(rows, cols).size, rows * cols
    assert plans.shape == (count * size,)
    assert keeps.shape == (flat_size(count * rows, cols),)
    for i in range(count):
        numbers = packing.matrix(uniform, count * rows, cols + balanced)[i * rows : (i + 1) * rows]
        keep, plan, _ = draw(numbers, probability, balanced)
        assert torch.equal(keeps[i * blocks : (i + 1) * blocks], keep.flatten())
        assert torch.equal(plans[i * size : (i + 1) * size], plan)
    assert torch.equal(scale, draw(torch.rand(1, 2), probability, False)[2])


@pytest.mark.parametrize("uniform", [torch.rand(24), torch.rand(2, 3, 4), torch.rand(25, dtype=torch.float64)])
def test_numbers_that_do_not_fit(uniform: torch.Tensor) -> None:
    with pytest.raises((ValueError, RuntimeError), match="uniform must be"):
        draw(uniform, torch.tensor(0.5), False, (2, 3, 5))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("numbers", "grid"), [(6, (-2, -3)), (12, (2, -2, -3)), (6, (-1, -2, 3)), (0, (2**30, 2**32, 2**32))]
)
def test_sizes_that_no_grid_has(numbers: int, grid: tuple[int, ...], device: str) -> None:
    uniform, p = torch.rand(numbers, device=device), torch.tensor(0.5, device=device)
    with pytest.raises((ValueError, RuntimeError), match="uniform must be"):
        draw(uniform, p, False, grid)


class Layers(nn.Module):
    """x_i = drop(linear(x)), four times: the weights are the identity, so that the result shows the masks."""

    def __init__(self, p: tuple[float, ...] = (0.5,) * 4, remember: bool = False) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in p)
        self.dropouts = nn.ModuleList(nn.Dropout(each) for each in p)
        self.remember = remember
        for linear in self.linears:
            nn.init.eye_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self._one(i, x) for i in range(len(self.linears))])

    def _one(self, i: int, x: Tensor) -> Tensor:
        def call(x: Tensor) -> Tensor:
            return self.dropouts[i](self.linears[i](x))

        return checkpoint(call, x, use_reentrant=False) if self.remember else call(x)


def grids(model: nn.Module, x: Tensor, dynamic: bool | None = None, **options: Any) -> list[list[int]]:
    """The grids that the draws of the rewritten graph take."""
    module = capture(model, x, dynamic=dynamic)
    SparseDropPass(select="all", block=16, together=True, **options)(module.graph)
    nodes = [node for graph in graphs(module.graph) for node in graph.nodes]
    assert sum(node.target is torch.rand for node in nodes) == sum(node.target is draw.default for node in nodes)
    return [n.args[3] for n in nodes if n.target is draw.default]


def test_one_draw_for_each_grid_and_probability() -> None:
    x = torch.randn(80, 64)
    assert grids(Layers(), x) == [[4, 5, 4]]
    assert grids(Layers(), x, kind="balanced") == [[4, 5, 4]]
    assert grids(Layers((0.5, 0.1, 0.5, 0.2, 0.1)), x) == [[2, 5, 4], [2, 5, 4], [5, 4]]
    assert grids(Layers(), x, p={"dropouts.1": 0.25}) == [[3, 5, 4], [5, 4]]


def test_sizes_known_only_when_it_runs_draw_alone() -> None:
    assert len(grids(Layers(), torch.randn(80, 64), dynamic=True)) == 4


def test_one_by_one_each_is_drawn_where_its_dropout_was() -> None:
    module = capture(Layers(), torch.randn(80, 64))
    SparseDropPass(select="all", block=16)(module.graph)
    order = [n.target for n in module.graph.nodes if n.target in (draw.default, torch.ops.sparsedrop.linear.default)]
    assert order == [draw.default, torch.ops.sparsedrop.linear.default] * 4


def compiled(model: nn.Module, **options: Any) -> Any:
    return torch.compile(model, backend="sparsedrop", fullgraph=True, options={"select": "all", "block": 16, **options})


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("inductor", "draws"), [({}, 1), ({"fallback_random": True}, 4)])
def test_together_only_where_inductor_seeds_each_call(inductor: dict[str, Any], draws: int) -> None:
    model = compiled(Layers(), inductor=inductor)
    _, (code, _) = run_fw_bw_and_get_code(lambda: model(torch.randn(512, 64)))
    assert code.count("torch.ops.sparsedrop.draw.default(") == draws


@pytest.mark.usefixtures("fresh_compiler")
def test_one_by_one_for_other_backends() -> None:
    texts = []

    def inner(module: Any, inputs: Any) -> Any:
        texts.append(str(module.graph))
        return module.forward

    compiled(Layers(), inner=inner)(torch.randn(512, 64))
    assert texts[0].count("sparsedrop.draw.default") == 4


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
@pytest.mark.parametrize("remember", [False, True])
def test_masks_differ_are_fresh_and_come_again_with_the_seed(inner: str, kind: str, remember: bool) -> None:
    model, found = compiled(Layers(remember=remember), inner=inner, kind=kind), []
    for seed in (1, 1, 2, None):
        if seed is not None:
            torch.manual_seed(seed)
        x = torch.ones(512, 64, requires_grad=True)
        y = model(x)
        (dx,) = torch.autograd.grad(y.sum(), x)
        # The backward sees the forward's masks, also where it computes the forward again.
        assert torch.equal(dx, y.sum(0))
        found.append(y.detach())
    assert torch.equal(found[0], found[1])
    different = [*found[0], *found[2], *found[3]]
    for i, first in enumerate(different):
        assert 0.25 < (first == 0).float().mean() < 0.75
        assert not any(torch.equal(first, other) for other in different[i + 1 :])


@pytest.mark.usefixtures("fresh_compiler")
def test_the_backward_reads_the_plans_where_the_forward_made_them() -> None:
    x = torch.randn(512, 64, requires_grad=True)
    _, (forward, backward) = run_fw_bw_and_get_code(lambda: compiled(Layers())(x))
    called = "torch.ops.sparsedrop.draw.default("
    assert (forward.count(called), backward.count(called)) == (1, 0)
    plans = re.findall(r"linear.default\(.*reinterpret_tensor\((buf\d+), \(\d+, \), \(1, \), (\d+)\)", forward)
    assert len({tensor for tensor, _ in plans}) == 1
    assert len({offset for _, offset in plans}) == 4

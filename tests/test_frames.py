"""Models that are several frames to Dynamo, and several models whose frames have one code object."""

from __future__ import annotations

import gc
import inspect
import weakref
from typing import Any

import pytest
import torch
from conversions import FAST, MLP, drops_blocks
from torch import Tensor, nn
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop

pytestmark = pytest.mark.usefixtures("fresh_compiler")
X = torch.randn(64, 64)
SETTINGS = inspect.signature(torch.compile).parameters


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.drop, self.fc2 = nn.Linear(64, 128), nn.Dropout(0.5), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.drop(F.relu(self.fc1(x))))


class Functional(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5, self.training))


class Stack(nn.Module):
    """Layers that are skipped at random: each is a frame of its own."""

    def __init__(self, layer: type[nn.Module] = Layer, count: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if not (self.training and torch.rand([]) < 0.0):
                x = layer(x)
        return x


class Listed(nn.Module):
    """Layers that a frame behind a break finds in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self.layers)
        torch._dynamo.graph_break()
        for layer in layers:
            x = layer(x)
        return x


class Ran:
    """An inner backend; of each graph that ran with dropout, the masked linears and PyTorch's own dropouts."""

    def __init__(self) -> None:
        self.graphs: list[tuple[int, int]] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: Any) -> Any:
        targets = [str(node.target) for node in module.graph.nodes]
        found = sum("sparsedrop.linear" in it for it in targets), sum("dropout" in it for it in targets)

        def run(*arguments: Any) -> Any:
            self.graphs += [found] if any(found) else []
            return module.forward(*arguments)

        return run

    def step(self, model: nn.Module) -> list[tuple[int, int]]:
        model(X)
        self.graphs.clear()
        model(X)
        return list(self.graphs)


@pytest.mark.parametrize("recompiles", [1, 2])
def test_more_models_of_a_class_than_recompiles(recompiles: int) -> None:
    with torch._dynamo.config.patch(recompile_limit=recompiles):
        for p in (None, None, None, 0.3, 0.4, 0.6, 0.7):
            model = sparsedrop.convert(MLP(), **FAST | {"p": p})
            assert drops_blocks(model(X))


def test_one_model_converted_again_and_again() -> None:
    model = MLP()
    with torch._dynamo.config.patch(recompile_limit=2):
        for p in (0.2, 0.3, 0.4, 0.5, 0.6):
            assert drops_blocks(sparsedrop.convert(model, **FAST | {"p": p})(X))


@pytest.mark.skipif("isolate_recompiles" not in SETTINGS, reason="torch.compile has no isolate_recompiles")
def test_more_models_than_recompiles_of_their_layers() -> None:
    with torch._dynamo.config.patch(recompile_limit=3):
        for _ in range(5):
            ran = Ran()
            model = sparsedrop.convert(Stack(), inner=ran, select="all", block=16)
            assert ran.step(model) == [(2, 0)] * 3


@pytest.mark.parametrize("layer", [Layer, Functional])
@pytest.mark.parametrize("by", ["convert", "backend"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_patterns_tell_layers_apart(layer: type[nn.Module], by: str, at: int) -> None:
    fused, left = (2, 0), (0, 1)
    for options, one, others in (
        ({"exclude": f"layers.{at}"}, left, fused),
        ({"include": f"layers.{at}"}, fused, left),
        ({"p": {f"layers.{at}": 0.0}}, (0, 0), fused),
    ):
        torch._dynamo.reset()
        ran = Ran()
        settings: dict[str, Any] = {"inner": ran, "select": "all", "block": 16, **options}
        if by == "convert":
            model = sparsedrop.convert(Stack(layer), **settings)
        else:
            model = torch.compile(Stack(layer), backend="sparsedrop", options=settings)  # type: ignore[assignment]
        wanted = [one if i == at else others for i in range(3)]
        assert ran.step(model) == [it for it in wanted if any(it)]


@pytest.mark.parametrize("by", ["convert", "backend"])
def test_patterns_tell_layers_in_lists_apart(by: str) -> None:
    """In two equal parts of a model, whose frames have one code object."""
    for options, second in (
        ({"exclude": "1.layers.0.drop"}, (2, 1)),
        ({"p": {"1.layers.1.*": 0.0}}, (2, 0)),
        ({"exclude": "1.*"}, (0, 2)),
    ):
        torch._dynamo.reset()
        ran, model = Ran(), nn.Sequential(Listed(), Listed())
        settings: dict[str, Any] = {"inner": ran, "select": "all", "block": 16, **options}
        if by == "convert":
            model = sparsedrop.convert(model, **settings)
        else:
            model = torch.compile(model, backend="sparsedrop", options=settings)  # type: ignore[assignment]
        assert ran.step(model) == [(4, 0), second]
    rows = sparsedrop.explain(nn.Sequential(Listed(), Listed()), X, options={"select": "all", "block": 16})
    names = [row["module"] for row in rows.to_dict()["sites"]]
    assert names == [f"{part}.layers.{i}.drop" for part in range(2) for i in range(2)]


def test_patterns_tell_many_layers_apart() -> None:
    ran = Ran()
    model = sparsedrop.convert(Stack(count=12), inner=ran, select="all", block=16, exclude="layers.10")
    assert ran.step(model) == [(2, 0)] * 10 + [(0, 1), (2, 0)]


@pytest.mark.parametrize("layer", [Layer, Functional])
def test_explain_has_a_row_for_each_layer(layer: type[nn.Module]) -> None:
    rows = sparsedrop.explain(Stack(layer, 12), X, options={"select": "all", "block": 16}).to_dict()["sites"]
    name = "layers.{}.drop" if layer is Layer else "layers.{}"
    assert [row["module"] for row in rows] == [name.format(i) for i in range(12)]
    assert all(row["decision"] == "fused" for row in rows)


def test_explain_leaves_what_was_compiled() -> None:
    ran = Ran()
    model = sparsedrop.convert(Stack(count=3), inner=ran, select="all", block=16)
    ran.step(model)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    sparsedrop.explain(model, X)
    model(X)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_explain_leaves_nothing_compiled() -> None:
    model = Stack(count=6)
    with torch._dynamo.config.patch(accumulated_recompile_limit=8):
        for _ in range(3):
            sparsedrop.explain(model, X, options={"select": "all", "block": 16})
        ran = Ran()
        assert ran.step(sparsedrop.convert(model, inner=ran, select="all", block=16)) == [(2, 0)] * 6
    alive = weakref.ref(sparsedrop.revert(model))
    explained = Stack(count=2)
    sparsedrop.explain(explained, X)
    gone = weakref.ref(explained)
    del explained, model, ran
    gc.collect()
    assert gone() is None
    assert alive() is None


def test_patterns_of_a_function_that_gets_fresh_modules() -> None:
    ran = Ran()
    options = {"inner": ran, "select": "all", "block": 16, "exclude": "nothing"}
    step = torch.compile(lambda model, x: model(x), backend="sparsedrop", options=options)
    for _ in range(12):
        step(Layer(), X)
    assert ran.graphs == [(2, 0)] * 12


def test_a_model_that_another_one_only_calls(recwarn: pytest.WarningsRecorder) -> None:
    """Names are those from the model that is compiled, not from whose method calls it."""

    class Harness(nn.Module):
        def run(self, model: Any) -> list[tuple[int, int]]:
            return ran.step(model)

    ran = Ran()
    options = {"inner": ran, "select": "all", "block": 16, "exclude": "drop"}
    model = torch.compile(Layer(), backend="sparsedrop", options=options)
    assert Harness().run(model) == [(0, 1)]
    assert not [warning for warning in recwarn if "no module matches" in str(warning.message)]


def test_a_break_inside_a_layer() -> None:
    class Broken(Functional):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x + self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5, self.training))

    ran = Ran()
    model = sparsedrop.convert(Stack(Broken), inner=ran, select="all", block=16, exclude="layers.1")
    assert ran.step(model) == [(2, 0), (0, 1), (2, 0)]


def test_explain_where_dynamo_gives_up_the_models_own_frame() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer()

        def forward(self, x: Tensor) -> Tensor:
            factor = None if torch.compiler.is_compiling() else (1.0,)
            return self.layer(x) * factor[0]  # type: ignore[index]

    ran = Ran()
    model = sparsedrop.convert(Odd(), inner=ran, select="all", block=16)
    report = sparsedrop.explain(model, X)
    assert report.totals["fused"] == 1
    assert report.converted
    assert not ran.graphs
    assert ran.step(model) == [(2, 0)]

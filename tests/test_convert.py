"""`convert` changes training and nothing else."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import time
from typing import Any

import pytest
import torch
from conversions import FAST, MLP, drops_blocks
from torch import Tensor, nn

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.convert import conversion_of

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def test_eval_costs_nothing(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original forward runs, uncompiled, behind one more Python call: under a microsecond where it was measured."""
    plain, model = MLP().eval(), sparsedrop.convert(MLP(), **FAST)
    model(x)
    model.eval()
    torch._dynamo.utils.counters.clear()
    took: list[list[float]] = [[], []]
    for _ in range(30):
        for module, times in zip((plain, model), took, strict=True):
            start = time.perf_counter()
            for _ in range(20):
                module(x)
            times.append((time.perf_counter() - start) / 20)
    # The least of each: what else the machine does only adds.
    assert min(took[1]) - min(took[0]) < 20e-6
    seen = []
    monkeypatch.setattr(MLP, "forward", lambda self, *args, **kwargs: seen.append((self, args, kwargs)))
    assert model(x, scale=2.0) is None
    assert seen == [(model, (x,), {"scale": 2.0})]
    assert not torch._dynamo.utils.counters["frames"]


def test_trains_with_blocks_and_evaluates_as_before(x: Tensor) -> None:
    model = MLP()
    before = model.eval()(x)
    assert sparsedrop.convert(model, **FAST) is model
    assert torch.equal(model.eval()(x), before)
    assert drops_blocks(model.train()(x))
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(model.eval()(x), before)


def test_revert(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    assert drops_blocks(model(x))
    assert sparsedrop.revert(model) is model
    assert type(model) is MLP
    assert not drops_blocks(model(x))
    assert sparsedrop.revert(model) is model


def test_toggling_does_not_recompile(x: Tensor) -> None:
    graphs = []

    def count(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    model = sparsedrop.convert(MLP(), **FAST | {"inner": count})
    for _ in range(3):
        model.train()(x).sum().backward()
        with torch.no_grad():
            model.eval()(x)
    assert len(graphs) == 1


def test_looks_the_same() -> None:
    model = MLP()
    keys, text, signature = list(model.state_dict()), repr(model), inspect.signature(model.forward)
    sparsedrop.convert(model, **FAST)
    assert list(model.state_dict()) == keys
    assert repr(model) == text
    assert inspect.signature(model.forward) == signature
    assert isinstance(model, MLP)
    model.load_state_dict(MLP().state_dict())


def test_idempotent(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    first = conversion_of(model)
    assert sparsedrop.convert(model, **FAST) is model
    assert conversion_of(model) is first
    sparsedrop.convert(model, **FAST, exclude="drop2")
    assert not drops_blocks(model(x))
    sparsedrop.revert(model)
    assert type(model) is MLP


def test_deepcopy_keeps_the_conversion(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    twin = copy.deepcopy(model)
    assert sparsedrop.explain(twin, x).to_dict()["converted"]
    assert drops_blocks(twin(x))
    twin.fc1.weight.data.zero_()
    assert model.fc1.weight.abs().sum() > 0
    sparsedrop.revert(twin)
    assert drops_blocks(model(x))


@pytest.mark.parametrize("how", ["pickle", "save"])
def test_pickles_lose_it_and_say_so(x: Tensor, how: str) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    model(x)
    if how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert type(twin) is MLP
    report = sparsedrop.explain(twin, x).to_dict()
    assert not report["converted"]
    assert "lost its conversion" in report["notes"][0]
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert not sparsedrop.explain(sparsedrop.convert(twin, **FAST), x).notes


def test_sequential(x: Tensor) -> None:
    models = [nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)) for _ in range(12)]
    for model in models:  # each has its own limit of recompilations
        assert drops_blocks(sparsedrop.convert(model, **FAST)(x))


def test_hooks_and_keywords(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    seen = []
    model.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    assert drops_blocks(model(x, scale=2.0))
    assert seen == [x.shape]


def test_refuses() -> None:
    with pytest.raises(TypeError, match=r"before torch\.compile"):
        sparsedrop.convert(torch.compile(MLP()))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        sparsedrop.convert(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"revert takes a torch\.nn\.Module, got function"):
        sparsedrop.revert(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"explain takes a torch\.nn\.Module and its inputs, got type"):
        sparsedrop.explain(MLP, torch.randn(4, 4))  # type: ignore[arg-type]
    for container in (nn.ModuleList([MLP()]), nn.ModuleDict({"a": MLP()}), nn.ParameterList()):
        with pytest.raises(TypeError, match=r"model must have a forward, got a (Module|Parameter)"):
            sparsedrop.convert(container)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        sparsedrop.convert(MLP(), p=1.5)
    with pytest.raises(ValueError, match="profitable"):
        sparsedrop.convert(MLP(), select="profitble")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs p="):
        sparsedrop.convert(MLP(), insert="linear")


def test_a_class_that_lists_its_subclasses() -> None:
    known = []

    class Listed(MLP):
        def __init_subclass__(cls, *, tag: str) -> None:
            known.append(tag)

    class Model(Listed, tag="a"):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    model = sparsedrop.convert(Model(), **FAST)
    assert drops_blocks(model(torch.randn(64, 64)))
    assert known == ["a"]
    assert isinstance(model, Model)
    assert type(sparsedrop.revert(model)) is Model
    nn.utils.parametrize.register_parametrization(sparsedrop.convert(model, **FAST).fc1, "weight", nn.Identity())
    nn.utils.parametrize.register_parametrization(model, "scale", nn.Identity())
    assert drops_blocks(sparsedrop.convert(model, **FAST | {"p": 0.3})(torch.randn(64, 64)))


def test_unmatched_pattern() -> None:
    with pytest.warns(UserWarning, match="did you mean 'drop1'"):
        sparsedrop.convert(MLP(), exclude="drop_1")


def test_autocast(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST | {"inner": "aot_eager"})
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert drops_blocks(y)
    y.float().sum().backward()
    assert model.fc1.weight.grad is not None

"""Models that are compiled, wrapped or converted besides, before or after `convert`."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import warnings
from typing import Any

import pytest
import torch
from conversions import FAST, MLP, drops_blocks
from torch import Tensor, nn

import torch_sparsedrop as sparsedrop

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_again(x: Tensor, wrapped: bool, fullgraph: bool) -> None:
    """The rewrite is kept where a graph may break, and else a warning says what to do, once."""
    sys.modules["torch_sparsedrop.convert"]._warn_once.cache_clear()  # type: ignore[attr-defined]
    model = sparsedrop.convert(MLP(), **FAST)
    outer = torch.compile(
        nn.Sequential(model, nn.Identity()) if wrapped else model, backend="eager", fullgraph=fullgraph
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = outer(x)
        outer(x[:2])
    ours = [w for w in caught if "torch_sparsedrop" in str(w.message) and "compiled whole" in str(w.message)]
    assert drops_blocks(y) != fullgraph
    assert len(ours) == fullgraph
    assert all('backend="sparsedrop"' in str(w.message) for w in ours)


def test_compiled_again_with_this_backend(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    outer = torch.compile(model, backend="sparsedrop", fullgraph=True, options=FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert drops_blocks(outer(x))


@pytest.mark.parametrize("inside", [False, True])
def test_compiled_again_with_other_options(x: Tensor, inside: bool) -> None:
    """The outer ones hold, and a warning says what is lost."""
    model = sparsedrop.convert(MLP(), p=1.0, **FAST)
    outer = sparsedrop.convert(nn.Sequential(model), **FAST) if inside else None
    if outer is None:
        outer = torch.compile(model, backend="sparsedrop", options=FAST)
    name = "module '0' was" if inside else "the model was"
    with pytest.warns(UserWarning, match=f"{name} converted with another p than"):
        assert drops_blocks(outer(x))


def test_transformed_from_outside_says_what_is_lost(x: Tensor) -> None:
    """PyTorch does not compile there."""
    sys.modules["torch_sparsedrop.convert"]._warn_of_transforms.cache_clear()  # type: ignore[attr-defined]
    model = sparsedrop.convert(MLP(), **FAST)

    def loss(parameters: Any) -> Tensor:
        y: Tensor = torch.func.functional_call(model, parameters, (x,))
        return y.sum()

    with pytest.warns(UserWarning, match="transform from outside"):
        torch.func.grad(loss)(dict(model.named_parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loss(dict(model.named_parameters()))


def test_model_compile_in_place(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    model.compile(backend="eager")
    assert drops_blocks(model(x))


def test_inside_a_converted_model(x: Tensor) -> None:
    inner = sparsedrop.convert(MLP(), **FAST)
    outer = sparsedrop.convert(nn.Sequential(inner), **FAST)
    assert drops_blocks(outer(x))


def test_forward_of_its_own(x: Tensor) -> None:
    """A forward set on the instance, as accelerate does, before or after."""
    model = MLP()
    plain = model.forward
    model.forward = lambda x: plain(x) * 2
    before = model.eval()(x)
    sparsedrop.convert(model, **FAST).train()
    assert drops_blocks(model(x))
    assert torch.equal(model.eval()(x), before)
    sparsedrop.revert(model)
    assert torch.equal(model(x), before)
    model = sparsedrop.convert(MLP(), **FAST)
    wrapped = model.forward
    model.forward = lambda x: wrapped(x) * 2
    assert drops_blocks(model(x))


def wrap_forward(model: nn.Module) -> None:
    """As accelerate does for mixed precision."""
    function = model.forward.__func__

    @functools.wraps(function)
    def doubled(self: nn.Module, x: Tensor) -> Tensor:
        return function(self, x) * 2

    model.forward = types.MethodType(doubled, model)


def test_converted_again_under_a_forward_of_its_own(x: Tensor) -> None:
    model = MLP()
    wanted = model.eval()(x) * 2
    sparsedrop.convert(model, **FAST)
    wrap_forward(model)
    sparsedrop.convert(model, **FAST | {"kind": "balanced"})
    assert torch.equal(model(x), wanted)
    assert drops_blocks(model.train()(x))
    assert torch.equal(sparsedrop.revert(model.eval())(x), wanted)
    assert not drops_blocks(model.train()(x))
    sparsedrop.convert(model, **FAST)
    assert drops_blocks(model(x))
    assert torch.equal(model.eval()(x), wanted)


def test_converted_again_under_a_plain_function(x: Tensor) -> None:
    """Which does not say what it calls."""
    model = sparsedrop.convert(MLP(), **FAST)
    wanted, converted = model.eval()(x) * 2, model.forward
    model.forward = lambda x: converted(x) * 2
    for _ in range(2):
        sparsedrop.revert(model)
        assert not drops_blocks(model.train()(x))
        sparsedrop.convert(model, **FAST)
        assert drops_blocks(model(x))
        assert torch.equal(model.eval()(x), wanted)


def test_converted_again_between_two_forwards(x: Tensor) -> None:
    model = MLP()
    wrap_forward(model)
    sparsedrop.convert(model, **FAST)
    wrap_forward(model)
    sparsedrop.convert(model, **FAST | {"kind": "balanced"})
    assert drops_blocks(model(x))


@pytest.mark.parametrize("first", ["converted", "wrapped"])
def test_unwrapped_by_accelerate(x: Tensor, first: str) -> None:
    """Which follows `__wrapped__` to its end and makes that the model's forward."""
    model = MLP()
    plain = model.eval()(x)
    if first == "converted":
        sparsedrop.convert(model, **FAST)
    wrap_forward(model)
    if first == "wrapped":
        sparsedrop.convert(model, **FAST)
    assert torch.equal(model(x), plain * 2)
    forward: Any = model.forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    model.forward = types.MethodType(forward, model)
    assert torch.equal(model(x), plain)
    assert drops_blocks(model.train()(x))
    assert list(inspect.signature(model.forward).parameters) == ["x", "scale"]
    assert torch.equal(sparsedrop.revert(model.eval())(x), plain)
    assert "forward" not in model.__dict__
    sparsedrop.convert(model.train(), **FAST)
    assert drops_blocks(model(x))


def test_patterns_under_a_forward_of_its_own(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), exclude="drop2", **FAST)
    wrap_forward(model)
    assert not drops_blocks(model(x))
    rows = sparsedrop.explain(model, x).to_dict()["sites"]
    assert [(row["module"], row["decision"]) for row in rows] == [("drop1", "fused"), ("drop2", "left")]

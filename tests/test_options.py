"""Options of `convert` and the backend: what is refused, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import Net

from torch_sparsedrop.backend import inductor_config
from torch_sparsedrop.options import Options

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def test_mode_alone_and_in_options() -> None:
    model, x = Net(), torch.randn(32, 64)
    torch.compile(model, backend="sparsedrop", mode="default")(x)
    assert inductor_config(Options.parse({"mode": "max-autotune-no-cudagraphs"}))["max_autotune"] is True
    patches = inductor_config(Options.parse({"mode": "reduce-overhead", "inductor": {"fallback_random": True}}))
    assert patches == {"triton.cudagraphs": True, "fallback_random": True}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"selct": "all"}, ValueError, "did you mean 'select'"),
        ({"select": "some"}, ValueError, "select must be one of"),
        ({"kind": "balance"}, ValueError, "did you mean 'balanced'"),
        ({"p": 1.5}, ValueError, "in \\[0, 1\\]"),
        ({"p": {"a": -1}}, ValueError, "p\\['a'\\]"),
        ({"p": "x"}, TypeError, "p must be a float in \\[0, 1\\], got 'x'"),
        ({"block": 8}, ValueError, "at least 16"),
        ({"block": {"a": (16, 8)}}, ValueError, "at least 16"),
        ({"include": 3}, TypeError, "include"),
        ({"include": "a", "exclude": "a"}, ValueError, "both"),
        ({"insert": "linear"}, ValueError, "needs p="),
        ({"insert": "conv", "p": 0.1}, ValueError, "insert must be one of"),
        ({"inner": "sparsedrop"}, ValueError, "another backend"),
        ({"inner": "inducter"}, ValueError, "got 'inducter', did you mean 'inductor'"),
        ({1: 2}, ValueError, "unknown option 1"),
        ({"p": torch.tensor(7.0)}, TypeError, "p must be a float in \\[0, 1\\], got a tensor"),
        ({"inner": "eager", "mode": "max-autotune"}, ValueError, "inductor"),
        ({"inductor": 3}, TypeError, "inductor"),
        ({"inductor": {1: 2}}, TypeError, "inductor must have names"),
        ({"mode": "reduce_overhead"}, ValueError, "did you mean 'reduce-overhead'"),
        ({"inductor": {"fallbackrandom": True}}, ValueError, "did you mean 'fallback_random'"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Options.parse(options)


def test_bad_options_reach_the_user() -> None:
    with pytest.raises(Exception, match="did you mean 'select'"):
        torch.compile(Net(), backend="sparsedrop", options={"selct": "all"})(torch.randn(8, 64))


def test_a_pattern_that_matches_nothing_under_the_backend() -> None:
    options = {"inner": "eager", "exclude": "drop_1"}
    with pytest.warns(UserWarning, match="no module matches the pattern 'drop_1', did you mean 'drop1'"):
        torch.compile(Net(), backend="sparsedrop", options=options)(torch.randn(8, 64))


def test_conflicting_overrides() -> None:
    options = Options.parse({"p": {"a.*": 0.1, "*.b": 0.2}})
    assert options.p_for("a.c") == 0.1
    with pytest.raises(ValueError, match="conflicting overrides of p="):
        options.p_for("a.b")

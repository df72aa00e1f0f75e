"""Real models: what is fused, and that the rewritten model computes what dense block masks would."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from oracle import Twin, assert_close, gradients
from zoo import CASES, Case, loss_of

import torch_sparsedrop as sparsedrop

# These are also compiled by Inductor in every run; all of them are in the full one.
INDUCTOR = ("nanogpt", "gpt2", "bert-classification", "t5", "encoder-relu-post")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_dense_oracle(case: Case) -> None:
    model, batch = case.make()
    model.double()
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    twin = Twin(p=0.3, **case.options)
    compiled = torch.compile(model, backend=twin)
    torch.manual_seed(1)
    loss = loss_of(compiled(**batch))
    loss.backward()
    fused = gradients(model)
    assert Counter(site.letter for site in twin.sites if site.fused) == case.fused
    assert Counter(site.letter for site in twin.sites if not site.fused) == case.left
    assert sum(twin.kept) / len(twin.kept) == pytest.approx(0.7, abs=0.2)
    twin.dense = True
    dense_loss = loss_of(compiled(**batch))
    dense_loss.backward()
    torch.testing.assert_close(loss, dense_loss, rtol=1e-6, atol=1e-9)
    assert_close(fused, gradients(model), 1e-6)


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    loss = loss_of(model(**batch))
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_converted(case: Case) -> None:
    """Trains alike under eager and aot_eager, evaluates bit for bit as before."""
    model, batch = case.make()
    p = 0.2 if case.options else None
    with torch.no_grad():
        before = loss_of(model.eval()(**batch))
    found = []
    for inner in ("eager", "aot_eager"):
        sparsedrop.convert(model, inner=inner, select="all", block=16, p=p, **case.options)
        found.append(step(model.train(), batch))
        with torch.no_grad():
            assert torch.equal(loss_of(model.eval()(**batch)), before)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert_close(found[1][1], found[0][1], 1e-3)
    report = sparsedrop.explain(model, **batch).to_dict()
    assert Counter(row["class"] for row in report["sites"] if row["decision"] == "fused") == case.fused
    assert Counter(row["class"] for row in report["sites"] if row["decision"] == "left") == case.left


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if name in INDUCTOR else pytest.mark.full) for name, case in CASES.items()],
    ids=list(CASES),
)
def test_inductor(case: Case) -> None:
    """The same numbers under Inductor, which with fallback_random draws what eager draws."""
    model, batch = case.make()
    settings = {"select": "all", "block": 16, "p": 0.2 if case.options else None, **case.options}
    for module in model.modules():  # attention's own dropout draws elsewhere once it is decomposed
        if type(module).__name__ in ("Attention", "GPT2Attention", "MultiheadAttention"):
            for name in ("p", "dropout", "attn_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
    sparsedrop.convert(model, inner="eager", **settings)
    wanted = step(model, batch)
    sparsedrop.convert(model, inner="inductor", inductor={"fallback_random": True}, **settings)
    got = step(model, batch)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-4, atol=1e-5)
    assert_close(got[1], wanted[1], 1e-2)

"""Real models: what is fused, and that the rewritten model computes what dense block masks would."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from oracle import Twin, assert_close, gradients
from zoo import CASES, Case, loss_of


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

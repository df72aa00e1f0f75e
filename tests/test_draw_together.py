"""Masks of one grid and probability, drawn at once: the op, and what the pass makes of a graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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

"""BlockMask: what is drawn, with which statistics, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import packing

KINDS = ["bernoulli", "balanced"]


@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from([16, 17, 40, 128]), st.sampled_from([16, 33, 256]))
def test_dense_repeats_each_block(rows, cols, bm, bn):
    mask = BlockMask.draw(rows, cols, 0.5, block=(bm, bn))
    assert mask.keep.shape == (math.ceil(rows / bm), math.ceil(cols / bn))
    expected = mask.keep.repeat_interleave(bm, 0).repeat_interleave(bn, 1)[:rows, :cols]
    assert torch.equal(mask.dense(), expected)
    if rows * cols:
        assert mask.density.item() == pytest.approx(expected.double().mean().item(), abs=1e-6)
    assert torch.equal(packing.unpack(mask.plan, *mask.keep.shape), mask.keep)


def test_bernoulli_compares_torch_rand_with_p():
    torch.manual_seed(7)
    mask = BlockMask.draw(1000, 700, 0.3, block=(100, 50))
    torch.manual_seed(7)
    assert torch.equal(mask.keep, torch.rand(10, 14) >= 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_mask(kind):
    masks = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        masks.append(BlockMask.draw(640, 640, 0.5, block=32, kind=kind).keep)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.5, 0.77, 1.0])
def test_every_block_is_kept_with_probability_one_minus_p(kind, p):
    rows, cols, draws = 4, 5, 4000
    keep = torch.stack([BlockMask.draw(16 * rows, 16 * cols, p, block=16, kind=kind).keep for _ in range(draws)])
    error = (keep.double().mean(0) - (1 - p)).abs()
    assert (error <= 5 * math.sqrt(p * (1 - p) / draws)).all()
    if kind == "balanced":
        k = (1 - p) * cols
        counts = keep.sum(2)
        assert ((counts == math.floor(k + 1e-9)) | (counts == math.ceil(k - 1e-9))).all()
        extra = (counts > k).double() if k % 1 else None
        if extra is not None:
            # The rows decide independently: no correlation between any two of them.
            correlation = torch.corrcoef(extra.t()) - torch.eye(rows, dtype=torch.float64)
            assert correlation.abs().max() < 5 / math.sqrt(draws)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_a_column_are_independent(kind):
    keep = torch.stack([BlockMask.draw(48, 64, 0.5, block=16, kind=kind).keep for _ in range(4000)]).double()
    columns = torch.corrcoef(keep[:, :, 0].t()) - torch.eye(3, dtype=torch.float64)
    assert columns.abs().max() < 5 / math.sqrt(4000)


@pytest.mark.parametrize(("p", "scale"), [(0.0, 1.0), (0.1, 1 / 0.9), (0.5, 2.0), (1.0, 0.0)])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_scale(p, scale, as_tensor):
    mask = BlockMask.draw(64, 64, torch.tensor(p) if as_tensor else p, block=16)
    assert mask.scale.dtype == torch.float32
    assert mask.scale.shape == ()
    assert mask.scale.item() == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize(("p", "clamped"), [(-1.0, 0.0), (7.0, 1.0)])
def test_a_tensor_p_is_clamped(p, clamped):
    mask = BlockMask.draw(64, 64, torch.tensor(p), block=16)
    assert mask.keep.all() if clamped == 0 else not mask.keep.any()
    assert torch.isfinite(mask.scale)


def test_from_keep_and_with_scale():
    keep = torch.tensor([[True, False], [False, True]])
    mask = BlockMask.from_keep(keep, 20, 30, block=16, scale=1.5)
    assert mask.scale.item() == 1.5
    other = mask.with_scale(torch.tensor(3.0, dtype=torch.float64))
    assert other.scale.dtype == torch.float32
    assert other.scale.item() == 3.0
    assert torch.equal(other.keep, keep)
    assert other.plan is mask.plan


def test_from_keep_does_not_follow_later_changes_of_the_grid():
    keep = torch.ones(2, 2, dtype=torch.bool)
    mask = BlockMask.from_keep(keep, 20, 30, block=16)
    keep.zero_()
    assert mask.dense().all()
    assert mask.density == 1


def test_is_a_pytree_node():
    mask = BlockMask.draw(64, 80, 0.5, block=16)
    leaves, spec = pytree.tree_flatten({"mask": mask})
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = pytree.tree_unflatten(leaves, spec)["mask"]
    assert (again.shape, again.block) == (mask.shape, mask.block)
    assert torch.equal(again.keep, mask.keep)
    moved = pytree.tree_map(lambda t: t.to("meta"), mask)
    assert moved.keep.is_meta
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


def test_survives_pickling():
    import copy
    import pickle

    mask = BlockMask.draw(64, 80, 0.5, block=16)
    for again in (pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask)):
        assert torch.equal(again.plan, mask.plan)
        assert again.shape == mask.shape


BAD = [
    ({"p": -0.1}, ValueError, r"p must be in \[0, 1\], got -0.1"),
    ({"p": 1.1}, ValueError, r"p must be in \[0, 1\], got 1.1"),
    ({"p": float("nan")}, ValueError, r"p must be in \[0, 1\], got nan"),
    ({"p": "0.5"}, TypeError, "p must be a float"),
    ({"p": torch.tensor([0.5])}, ValueError, "p as a tensor must be 0-dim"),
    ({"p": torch.tensor(1)}, ValueError, "p as a tensor must be 0-dim and floating"),
    ({"block": 8}, ValueError, "block must be at least 16"),
    ({"block": (16, 15)}, ValueError, r"block must be at least 16.*\(16, 15\)"),
    ({"block": (2**31, 16)}, ValueError, r"block must be at least 16 and less than 2\*\*31.*\(2147483648, 16\)"),
    ({"block": (16.0, 16)}, TypeError, "block must be two ints"),
    ({"block": (16, 16, 16)}, TypeError, "block must be two ints"),
    ({"block": True}, TypeError, "block must be two ints"),
    ({"kind": "uniform"}, ValueError, r"kind must be one of \('bernoulli', 'balanced'\), got 'uniform'"),
    ({"rows": -1}, ValueError, "rows must not be negative"),
    ({"cols": 3.5}, TypeError, "cols must be an int, got 3.5"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_draw_refuses(change, error, message):
    with pytest.raises(error, match=message):
        BlockMask.draw(**{"rows": 64, "cols": 64, "p": 0.5, "block": 16, **change})


@pytest.mark.parametrize(
    ("keep", "scale", "error", "message"),
    [
        (torch.ones(2, 2), 1.0, TypeError, "keep must be a bool tensor, got torch.float32"),
        ([[True]], 1.0, TypeError, "keep must be a bool tensor, got list"),
        (torch.ones(2, 3, dtype=torch.bool), 1.0, ValueError, r"keep must have the grid \(2, 2\).*got shape \(2, 3\)"),
        (torch.ones(2, 2, dtype=torch.bool), float("inf"), ValueError, "scale must be a finite number"),
        (torch.ones(2, 2, dtype=torch.bool), 1e39, ValueError, "scale must be a finite number"),
        (torch.ones(2, 2, dtype=torch.bool), 10**400, ValueError, "scale must be a finite number"),
        (torch.ones(2, 2, dtype=torch.bool), torch.ones(1), ValueError, "scale must be a 0-dim"),
        (
            torch.ones(2, 2, dtype=torch.bool).to_sparse(),
            1.0,
            TypeError,
            "keep must be a dense tensor, got.*sparse_coo",
        ),
    ],
)
def test_from_keep_refuses(keep, scale, error, message):
    with pytest.raises(error, match=message):
        BlockMask.from_keep(keep, 32, 32, block=16, scale=scale)

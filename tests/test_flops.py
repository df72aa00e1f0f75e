"""FLOP counts: the kept work where masks have data, the dense count where they have none."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import torch_sparsedrop as sparsedrop
from torch_sparsedrop import BlockMask

M, N, K = 100, 70, 90


def count(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("sides", ["in", "out", "both"])
def test_kept_work_of_all_three_products(sides):
    drop_in = BlockMask.draw(M, K, 0.4, block=(32, 16)) if sides != "out" else None
    drop_out = BlockMask.draw(M, N, 0.4, block=(32, 48)) if sides != "in" else None
    x, w = torch.randn(M, K, requires_grad=True), torch.randn(N, K, requires_grad=True)
    into = torch.ones(M, K) if drop_in is None else drop_in.dense().float()
    out = torch.ones(M, N) if drop_out is None else drop_out.dense().float()
    kept = int((into.sum(1).double() @ out.sum(1).double()).item())
    assert count(lambda: sparsedrop.linear(x, w, drop_in=drop_in, drop_out=drop_out)) == 2 * kept
    both = count(lambda: sparsedrop.linear(x, w, drop_in=drop_in, drop_out=drop_out).sum().backward())
    assert both == 3 * 2 * kept


def test_dense_count_without_data():
    with FakeTensorMode():
        x, w = torch.randn(M, K), torch.randn(N, K)
        assert count(lambda: sparsedrop.dropout_linear(x, w, p=0.9, block=16)) == 2 * M * N * K

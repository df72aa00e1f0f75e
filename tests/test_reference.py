"""The oracle against its definition, element by element."""

import itertools

import torch

from torch_sparsedrop import BlockMask, reference


def test_linear_is_the_formula():
    m, n, k = 20, 19, 35
    x, weight, bias = (torch.randn(s, dtype=torch.float64) for s in ((m, k), (n, k), (n,)))
    keep_in = torch.tensor([[True, False, True], [False, False, True]])
    keep_out = torch.tensor([[True, True], [False, True]])
    drop_in = BlockMask.from_keep(keep_in, m, k, block=16, scale=1.5)
    drop_out = BlockMask.from_keep(keep_out, m, n, block=16, scale=4.0)
    y = reference.linear(x, weight, bias, drop_in=drop_in, drop_out=drop_out)
    for i, j in itertools.product(range(m), range(n)):
        expected = 0.0
        if keep_out[i // 16, j // 16]:
            total = sum(float(x[i, c] * weight[j, c]) for c in range(k) if keep_in[i // 16, c // 16])
            expected = 4.0 * (1.5 * total + float(bias[j]))
        assert abs(float(y[i, j]) - expected) < 1e-12


def test_select_keeps_nothing_of_a_dropped_value():
    mask = torch.tensor([[True, False, False]])
    selected = reference.select(mask, torch.tensor([[2.0, float("nan"), float("-inf")]]))
    assert selected.tolist() == [[2.0, 0.0, 0.0]]


def test_16_bit_operands_are_summed_in_float32():
    # In float16 the sum would stop at 2048, where adding 1 no longer changes it.
    x, weight = torch.ones(1, 4096, dtype=torch.float16), torch.ones(1, 4096, dtype=torch.float16)
    mask = BlockMask.from_keep(torch.ones(1, 1, dtype=torch.bool), 1, 4096, block=4096)
    assert reference.linear(x, weight, drop_in=mask).item() == 4096

"""`linear` and its gradients against the oracle in float64."""

import pytest
import torch
from hypothesis import given
from problems import DTYPES, Problem, assert_explained, gradients, problems

import torch_sparsedrop as sparsedrop
from torch_sparsedrop import BlockMask, reference

F = torch.nn.functional


def check(problem: Problem) -> None:
    wide = problem.wide()
    expected = reference.linear(*wide, **problem.masks)
    expected_grads = gradients(expected, wide, problem.grad.double())
    magnitude, grad_magnitudes = problem.magnitudes()

    operands = [None if t is None else t.detach().requires_grad_() for t in problem.operands()]
    y = sparsedrop.linear(*operands, **problem.masks)
    found = gradients(y, operands, problem.grad)

    m, n, k = y.shape[:-1].numel(), problem.weight.shape[0], problem.weight.shape[1]
    assert y.dtype == problem.x.dtype
    assert y.is_contiguous()
    assert_explained(y, expected, magnitude, k)
    for grad, wanted, size, terms in zip(found, expected_grads, grad_magnitudes, (n, m, m), strict=True):
        if wanted is not None:
            assert_explained(grad, wanted, size, terms)


@given(problems())
def test_matches_the_oracle(problem):
    check(problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sides", ["in", "out", "both"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_default_blocks(dtype, sides, p):
    m, n, k = 300, 260, 390
    check(
        Problem(
            x=torch.randn(m, k).to(dtype),
            weight=torch.randn(n, k).to(dtype),
            bias=torch.randn(n).to(dtype),
            drop_in=BlockMask.draw(m, k, p) if sides != "out" else None,
            drop_out=BlockMask.draw(m, n, p) if sides != "in" else None,
            grad=torch.randn(m, n).to(dtype),
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_dropped_values_are_never_used(dtype, poison):
    m, n, k = 100, 90, 110
    drop_in = BlockMask.draw(m, k, 0.5, block=(32, 16))
    drop_out = BlockMask.draw(m, n, 0.5, block=(32, 48))
    clean = torch.randn(m, k).to(dtype), torch.randn(m, n).to(dtype)
    dirty = clean[0].masked_fill(~drop_in.dense(), poison), clean[1].masked_fill(~drop_out.dense(), poison)
    weight, bias = torch.randn(n, k).to(dtype), torch.randn(n).to(dtype)

    def run(x, grad):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = sparsedrop.linear(*leaves, drop_in=drop_in, drop_out=drop_out)
        return y, *torch.autograd.grad(y, leaves, grad)

    for from_clean, from_dirty in zip(run(*clean), run(*dirty), strict=True):
        assert torch.equal(from_clean, from_dirty)


def test_dropped_results_are_positive_zero():
    x, weight = -torch.ones(64, 64), torch.ones(64, 64)
    drop_in, drop_out = (BlockMask.draw(64, 64, 0.5, block=16) for _ in range(2))
    x.requires_grad_()
    y = sparsedrop.linear(x, weight, torch.full((64,), -1.0), drop_in=drop_in, drop_out=drop_out)
    (dx,) = torch.autograd.grad(y, x, -torch.ones_like(y))
    for tensor, mask in ((y, drop_out), (dx, drop_in)):
        dropped = tensor[~mask.dense()]
        assert dropped.numel()
        assert (dropped == 0).all()
        assert not torch.signbit(dropped).any()


def test_p_one_on_the_input_gives_the_bias():
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((50, 40), (30, 40), (30,)))
    y = sparsedrop.dropout_linear(x, weight, bias, 1.0, block=16)
    assert torch.equal(y, bias.expand(50, 30))
    dx, dw, db = torch.autograd.grad(y.sum(), (x, weight, bias))
    assert not dx.any()
    assert not dw.any()
    assert torch.equal(db, torch.full((30,), 50.0))


def test_p_one_on_the_output_gives_zeros():
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((50, 40), (30, 40), (30,)))
    y = sparsedrop.linear_dropout(x, weight, bias, 1.0, block=16)
    assert not y.any()
    for grad in torch.autograd.grad(y.sum(), (x, weight, bias)):
        assert not grad.any()


def test_a_row_that_lost_everything_is_the_scaled_bias():
    keep = torch.tensor([[False, False], [True, False]])
    drop_in = BlockMask.from_keep(keep, 32, 32, block=16, scale=3.0)
    drop_out = BlockMask.from_keep(torch.tensor([[True, False], [True, True]]), 32, 32, block=16, scale=2.0)
    bias = torch.randn(32)
    y = sparsedrop.linear(torch.randn(32, 32), torch.randn(32, 32), bias, drop_in=drop_in, drop_out=drop_out)
    assert torch.equal(y[:16, :16], 2 * bias[:16].expand(16, 16))
    assert not y[:16, 16:].any()


@pytest.mark.parametrize("shape", [(0, 48), (3, 0, 48), (48,), (1, 48), (2, 3, 5, 48)])
def test_leading_dimensions(shape):
    x, weight, bias = torch.randn(shape), torch.randn(20, 48), torch.randn(20)
    rows = x.shape[:-1].numel()
    mask = BlockMask.draw(rows, 48, 0.4, block=16)
    y = sparsedrop.linear(x, weight, bias, drop_in=mask)
    assert y.shape == (*shape[:-1], 20)
    flat = sparsedrop.linear(x.reshape(rows, 48), weight, bias, drop_in=mask)
    assert torch.equal(y.reshape(rows, 20), flat)


def test_without_masks_it_is_the_plain_linear():
    x, weight, bias = torch.randn(7, 5), torch.randn(3, 5), torch.randn(3)
    assert torch.equal(sparsedrop.linear(x, weight, bias), F.linear(x, weight, bias))


@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
@pytest.mark.parametrize("function", [sparsedrop.dropout_linear, sparsedrop.linear_dropout])
def test_expectation_is_the_dense_result(function, kind):
    x, weight, bias = (t.double() for t in (torch.randn(40, 80), torch.randn(50, 80), torch.randn(50)))
    samples = torch.stack([function(x, weight, bias, 0.3, block=16, kind=kind) for _ in range(2000)])
    error = (samples.mean(0) - F.linear(x, weight, bias)).abs()
    standard_error = samples.std(0) / len(samples) ** 0.5
    # Within a block all results share their mask, so this is about 12 independent comparisons at 5 sigma.
    assert (error <= 5 * standard_error).all()
    assert (standard_error > 0).all()


def test_repeats_and_thread_counts_give_equal_bits():
    x, weight, grad = torch.randn(390, 520), torch.randn(260, 520), torch.randn(390, 260)
    drop_in, drop_out = BlockMask.draw(390, 520, 0.3, block=64), BlockMask.draw(390, 260, 0.3, block=64)

    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            y = sparsedrop.linear(*leaves, drop_in=drop_in, drop_out=drop_out)
            return y, *torch.autograd.grad(y, leaves, grad)
        finally:
            torch.set_num_threads(before)

    first = run(1)
    for other in (run(1), run(2), run(3)):
        assert all(map(torch.equal, first, other))

"""Derivatives: both entrances, any order, and no work for a gradient that nobody wants."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import torch_sparsedrop as sparsedrop
from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import REVISION, autograd
from torch_sparsedrop.providers.cuda import device as devices


def masks(sides: str):
    drop_in = BlockMask.draw(17, 18, 0.4, block=16) if sides != "out" else None
    drop_out = BlockMask.draw(17, 19, 0.4, block=16) if sides != "in" else None
    return drop_in, drop_out


def arguments(mask):
    return (None, None, []) if mask is None else (mask.plan, mask.scale, list(mask.block))


def entrances(drop_in, drop_out):
    rest = (*arguments(drop_in), *arguments(drop_out), REVISION)
    return {
        "function": lambda x, w, b=None: sparsedrop.linear(x, w, b, drop_in=drop_in, drop_out=drop_out),
        "overload": lambda x, w, b=None: torch.ops.sparsedrop.linear(x, w, b, *rest),
    }


@pytest.mark.parametrize("entrance", ["function", "overload"])
@pytest.mark.parametrize("sides", ["in", "out", "both"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_of_first_and_second_order(entrance, sides, bias):
    call = entrances(*masks(sides))[entrance]
    shapes = ((17, 18), (19, 18), (19,)) if bias else ((17, 18), (19, 18))
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_both_entrances_agree_to_the_bit():
    drop_in, drop_out = masks("both")
    results = []
    for call in entrances(drop_in, drop_out).values():
        torch.manual_seed(1)
        leaves = [torch.randn(s, requires_grad=True) for s in ((17, 18), (19, 18), (19,))]
        y = call(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert all(map(torch.equal, *results))


class Calls(TorchDispatchMode):
    """Names of the ops of this library that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "sparsedrop":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("entrance", ["function", "overload"])
@pytest.mark.parametrize(
    ("wanted", "backward"),
    [("x", ["linear"]), ("w", ["weight_grad"]), ("b", ["weight_grad"]), ("xw", ["linear", "weight_grad"])],
)
def test_only_wanted_gradients_are_computed(entrance, wanted, backward):
    call = entrances(*masks("both"))[entrance]
    shapes = {"x": (17, 18), "w": (19, 18), "b": (19,)}
    leaves = [torch.randn(shape, requires_grad=name in wanted) for name, shape in shapes.items()]
    y = call(*leaves)
    with Calls() as calls:
        y.sum().backward()
    assert calls.names == backward
    assert [leaf.grad is not None for leaf in leaves] == [name in wanted for name in shapes]


@pytest.mark.parametrize("sides", ["in", "out"])
def test_sums_by_our_kernel_can_be_derived_again(monkeypatch, sides):
    """On a GPU they are also taken where nothing is masked."""
    monkeypatch.setattr(autograd, "_sums", lambda grad: True)
    drop_in, drop_out = masks(sides)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((17, 18), (19, 18), (19,))]

    def call(*operands):
        return sparsedrop.linear(*operands, drop_in=drop_in, drop_out=drop_out).square()

    with Calls() as calls:
        torch.autograd.grad(call(*leaves).sum(), leaves)
    assert calls.names.count("weight_grad") == 2
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize(
    ("shape", "strides", "dtype", "ours"),
    [
        ((1024, 64), (64, 1), torch.bfloat16, True),
        ((4, 256, 64), (16384, 64, 1), torch.float32, True),
        ((32768, 16), (16, 1), torch.float16, True),
        ((32769, 16), (16, 1), torch.float16, False),
        ((1 << 20, 512), (512, 1), torch.bfloat16, True),
        # Transposed, expanded, with a gap between rows; of a dtype, or of sizes, that no kernel is for.
        ((1024, 64), (1, 1024), torch.bfloat16, False),
        ((1024, 64), (0, 0), torch.bfloat16, False),
        ((1024, 64), (72, 1), torch.bfloat16, False),
        ((1024, 64), (64, 1), torch.float64, False),
        ((64,), (1,), torch.bfloat16, False),
        ((0, 64), (64, 1), torch.bfloat16, False),
        ((64, 0), (1, 1), torch.bfloat16, False),
    ],
)
def test_where_our_kernel_sums_rows(monkeypatch, shape, strides, dtype, ours):
    with FakeTensorMode():
        grad = torch.empty_strided(shape, strides, dtype=dtype, device="cuda")
    assert not autograd._sums(grad)  # in a graph
    monkeypatch.setattr(autograd, "Tensor", FakeTensor)
    monkeypatch.setattr(devices, "why_not", lambda index: None)
    assert autograd._sums(grad) == ours
    monkeypatch.setattr(devices, "why_not", lambda index: "too old")
    assert not autograd._sums(grad)


@pytest.mark.parametrize("wanted", ["x", "w"])
def test_only_needed_operands_are_kept(wanted):
    drop_in, drop_out = masks("both")
    x, w = (torch.randn(s, requires_grad=name == wanted) for name, s in (("x", (17, 18)), ("w", (19, 18))))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sparsedrop.linear(x, w, drop_in=drop_in, drop_out=drop_out)
    floating = [t for t in kept if t.dim() == 2 and t.is_floating_point()]
    assert [t.shape for t in floating] == [(w if wanted == "x" else x).shape]


def test_gradient_has_the_layout_of_a_transposed_weight():
    drop_in, _ = masks("in")
    stored = torch.randn(18, 19, requires_grad=True)
    sparsedrop.linear(torch.randn(17, 18), stored.t(), drop_in=drop_in).square().sum().backward()
    assert stored.grad.is_contiguous()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_uses_the_forward_mask(reentrant):
    layer = sparsedrop.nn.DropoutLinear(64, 48, p=0.5, block=16)
    x = torch.randn(80, 64, requires_grad=True)
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(3)
        y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant) if checkpointed else layer(x)
        torch.manual_seed(99)
        x.grad = None
        y.square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_func_transforms():
    drop_in, drop_out = masks("both")
    x, w = torch.randn(4, 17, 18), torch.randn(19, 18)

    def loss(weight, example):
        return sparsedrop.linear(example, weight, drop_in=drop_in, drop_out=drop_out).square().sum()

    per_example = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, x)
    for i in range(4):
        leaf = w.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, x[i]), leaf)
        torch.testing.assert_close(per_example[i], expected)
    jacobian = torch.func.jacrev(torch.func.grad(loss))(w.double(), x[0].double())
    assert jacobian.shape == (19, 18, 19, 18)
    _, pullback = torch.func.vjp(lambda v: sparsedrop.linear(v, w, drop_in=drop_in), x[0])
    (dx,) = pullback(torch.ones(17, 19))
    leaf = x[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(sparsedrop.linear(leaf, w, drop_in=drop_in).sum(), leaf)
    torch.testing.assert_close(dx, expected)


def test_vmap_over_inputs_weights_and_masks():
    x, w = torch.randn(3, 17, 18), torch.randn(3, 19, 18)
    drop_in, _ = masks("in")
    batched = torch.vmap(lambda a, b: sparsedrop.linear(a, b, drop_in=drop_in))(x, w)
    assert torch.equal(
        batched, torch.stack([sparsedrop.linear(a, b, drop_in=drop_in) for a, b in zip(x, w, strict=True)])
    )

    def with_mask(keep, a):
        return sparsedrop.linear(a, w[0], drop_in=BlockMask.from_keep(keep, 17, 18, block=16))

    keep = torch.rand(3, 2, 2) > 0.4
    assert torch.equal(
        torch.vmap(with_mask)(keep, x), torch.stack([with_mask(k, a) for k, a in zip(keep, x, strict=True)])
    )
    for some in (x, x[:0]):
        drawn = torch.vmap(lambda a: sparsedrop.dropout_linear(a, w[0], p=0.5, block=16), randomness="different")(some)
        assert drawn.shape == (len(some), 17, 19)


def test_forward_mode_says_that_it_is_missing():
    mask = BlockMask.draw(32, 32, 0.5, block=16)

    def call(x):
        return sparsedrop.linear(x, torch.eye(32), drop_in=mask)

    x = torch.randn(32, 32)
    with pytest.raises(NotImplementedError, match="no forward-mode"):
        torch.func.jvp(call, (x,), (x,))
    for grad in (torch.enable_grad, torch.no_grad):
        with (
            grad(),
            torch.autograd.forward_ad.dual_level(),
            pytest.raises(NotImplementedError, match="no forward-mode"),
        ):
            call(torch.autograd.forward_ad.make_dual(x, x))

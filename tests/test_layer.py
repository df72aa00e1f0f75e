"""The op that plans and multiplies at once, against its parts; and who does not get it."""

from __future__ import annotations

import contextlib
import gc
import warnings
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.ops import REVISION, layer

if not layer._built():
    pytest.skip("the native part was not built", allow_module_level=True)

FUNCTIONS = {False: sparsedrop.dropout_linear, True: sparsedrop.linear_dropout}


@pytest.fixture
def served(monkeypatch):
    """One entry for each call of the op."""
    calls = []
    op = layer._OP
    monkeypatch.setattr(layer, "_OP", lambda *arguments: (calls.append(arguments), op(*arguments))[1])
    return calls


def by_parts(x, weight, bias, p, out, **options):
    cols = weight.shape[0 if out else 1]
    mask = sparsedrop.BlockMask.draw(x.numel() // x.shape[-1], cols, p, **options)
    return sparsedrop.linear(x, weight, bias, **{"drop_out" if out else "drop_in": mask})


def operands(*shape, dtype=torch.float32, bias=True):
    tensors = torch.randn(shape), torch.randn(40, shape[-1]), torch.randn(40) if bias else None
    return [tensor if tensor is None else tensor.to(dtype).requires_grad_() for tensor in tensors]


def results(call, leaves):
    """The result, all gradients and the state of the random numbers afterwards."""
    torch.manual_seed(7)
    y = call()
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [y, *torch.autograd.grad(y, wanted, y.detach().square()), torch.get_rng_state()]


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
@pytest.mark.parametrize("p", [0.3, 1, 1.0, torch.tensor(0.0), torch.tensor(0.6)], ids=str)
@pytest.mark.parametrize("shape", [(70, 48), (3, 5, 33), (1, 16), (48,), (0, 48)], ids=str)
def test_equals_its_parts(shape, p, kind, out, served):
    options = {"block": (16, 32), "kind": kind}
    leaves = operands(*shape)
    mine = results(lambda: FUNCTIONS[out](*leaves, p, **options), leaves)
    theirs = results(lambda: by_parts(*leaves, p, out, **options), leaves)
    assert len(served) == 1
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("out", [False, True])
def test_dtypes_and_no_bias(dtype, out, served):
    leaves = operands(33, 50, dtype=dtype, bias=False)
    mine = results(lambda: FUNCTIONS[out](*leaves, 0.5, block=16), leaves)
    theirs = results(lambda: by_parts(*leaves, 0.5, out, block=16), leaves)
    assert len(served) == 1
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_modules_autocast_and_no_grad(served):
    x = torch.randn(40, 32)
    for module in (sparsedrop.nn.DropoutLinear(32, 48, block=16), sparsedrop.nn.LinearDropout(32, 48, block=16)):
        module(x).sum().backward()
        with torch.no_grad():
            assert not module(x).requires_grad
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        y.sum().backward()
        assert module.weight.grad.dtype == torch.float32
    assert len(served) == 6


def test_second_derivatives(served):
    leaves = operands(20, 33, dtype=torch.float64)

    def call(*leaves):
        torch.manual_seed(3)
        return sparsedrop.dropout_linear(*leaves, 0.5, block=16).square()

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    assert served


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Other(torch.Tensor):
    """A tensor with a mind of its own."""


@pytest.mark.parametrize("who", ["mode", "subclass", "vmap", "forward mode", "wide p", "compiler"])
def test_who_sees_the_parts(who, served):
    x, weight, bias = (tensor.detach() for tensor in operands(40, 48))
    torch.manual_seed(1)
    expected = by_parts(x, weight, bias, 0.5, False, block=16)

    def call(x, p=0.5):
        torch.manual_seed(1)
        return sparsedrop.dropout_linear(x, weight, bias, p, block=16)

    if who == "mode":
        with Watching():
            y = call(x)
    elif who == "subclass":
        y = call(x.as_subclass(Other)).as_subclass(torch.Tensor)
    elif who == "vmap":
        y = torch.func.vmap(lambda x: call(x), randomness="same")(x[None])[0]
    elif who == "forward mode":
        with torch.autograd.forward_ad.dual_level():
            y = call(x)
    elif who == "wide p":
        y = call(x, torch.tensor(0.5, dtype=torch.float64))
    else:
        y = torch.compile(call, backend="eager")(x)
    assert not served
    assert torch.equal(y, expected)


def test_what_the_op_refuses_the_parts_explain(served):
    x, weight, bias = operands(40, 48)
    with pytest.raises(TypeError, match="bias must have x's dtype"):
        sparsedrop.dropout_linear(x, weight, bias.detach().half(), 0.5, block=16)
    with pytest.raises(ValueError, match="x's last dimension must be weight's K"):
        sparsedrop.linear_dropout(x[:, :-1], weight, bias, 0.5, block=16)
    assert len(served) == 2
    for wrong in torch.randn(48), torch.randn(()), torch.randn(2, 40, 48):
        with pytest.raises(ValueError, match="weight must be 2-dim"):
            sparsedrop.dropout_linear(x, wrong, bias, 0.5, block=16)
    with pytest.raises(ValueError, match="x must have at least one dimension"):
        sparsedrop.linear_dropout(x[0, 0], weight, bias, 0.5, block=16)


def test_what_the_op_refuses_has_the_same_numbers(monkeypatch):
    leaves = operands(70, 48)
    expected = results(lambda: by_parts(*leaves, 0.5, False, block=16), leaves)

    def refuse(*arguments):
        raise RuntimeError("no")

    monkeypatch.setattr(layer, "_OP", refuse)
    monkeypatch.setattr(layer, "_told", set())
    with pytest.warns(UserWarning, match=r"ran as two ops.*RuntimeError\('no'\)") as told:
        found = results(lambda: sparsedrop.dropout_linear(*leaves, 0.5, block=16), leaves)
    assert told[0].filename == __file__
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsedrop.dropout_linear(*leaves, 0.5, block=16)  # it said so once


def _missing(*arguments):
    raise NotImplementedError("no kernel for this device")


def test_a_device_without_the_op_is_not_told_of_here(monkeypatch):
    """Its kernels tell who serves."""
    monkeypatch.setattr(layer, "_OP", _missing)
    monkeypatch.setattr(layer, "_told", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sparsedrop.dropout_linear(*operands(70, 48), 0.5, block=16).shape[0] > 0
    assert not layer._told


@pytest.mark.parametrize("call", ["layer", "parts", "linear"])
def test_nothing_is_kept_alive(call, monkeypatch):
    """Not by a call that failed, nor by one that the op refused and its parts served: a cycle would wait for gc."""
    x, weight, bias = (leaf.detach() for leaf in operands(40, 48))
    mask = sparsedrop.BlockMask.draw(40, 48, 0.5, block=16)
    if call == "parts":
        monkeypatch.setattr(layer, "_OP", _missing)
        sparsedrop.dropout_linear(x, weight, bias, 0.5, block=16)
    with contextlib.suppress(TypeError):
        if call == "layer":
            sparsedrop.dropout_linear(x, weight, bias.half(), 0.5, block=16)
        elif call == "linear":
            sparsedrop.linear(x, weight, bias.half(), drop_in=mask)
    alive = weakref.ref(x)
    gc.disable()
    try:
        del x
        assert alive() is None
    finally:
        gc.enable()


def test_the_same_numbers_make_the_same_mask():
    """The op draws nothing itself."""
    x, weight, bias = operands(40, 48)
    arguments = x, weight, bias, torch.rand(3 * 3), None, 0.5, False, False, (16, 16), REVISION
    state = torch.get_rng_state()
    y, plan, scale = torch.ops.sparsedrop.layer(*arguments)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip((y, plan, scale), torch.ops.sparsedrop.layer(*arguments), strict=True))
    with pytest.raises(RuntimeError, match="uniform must be a float32 tensor"):
        torch.ops.sparsedrop.layer(x, weight, bias, torch.rand(8), *arguments[4:])
    with pytest.raises(ValueError, match="uniform must be on x's device cpu, got meta"):
        torch.ops.sparsedrop.layer(x, weight, bias, torch.rand(9, device="meta"), *arguments[4:])


@pytest.mark.parametrize("out", [False, True])
def test_the_overload_is_differentiable(out):
    leaves = operands(40, 48)
    rest = torch.rand(3 * 3), torch.tensor(0.4), 0.0, False, out, (16, 16), REVISION

    def parts():
        _, plan, scale = torch.ops.sparsedrop.draw(rest[0], rest[1], False, (3, 3))
        masks = (plan, scale, (16, 16)), (None, None, ())
        masks = masks[::-1] if out else masks
        return torch.ops.sparsedrop.linear(*leaves, *masks[0], *masks[1], REVISION)

    mine = results(lambda: torch.ops.sparsedrop.layer(*leaves, *rest)[0], leaves)
    theirs = results(parts, leaves)
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_another_exception_on_the_way_is_passed_on():
    """A hook may end a forward, as checkpointing does."""
    x, weight, bias = operands(40, 48)

    def stop(tensor):
        raise KeyError("enough")

    with torch.autograd.graph.saved_tensors_hooks(stop, lambda it: it), pytest.raises(KeyError, match="enough"):
        sparsedrop.dropout_linear(x, weight, bias, 0.5, block=16)

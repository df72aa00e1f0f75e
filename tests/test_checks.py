"""Bad input to the functions and the ops: the message names the argument, what came and what is needed."""

import pytest
import torch

import torch_sparsedrop as sparsedrop
from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import REVISION

X, W, B = torch.randn(40, 32), torch.randn(24, 32), torch.randn(24)
IN, OUT = BlockMask.draw(40, 32, 0.5, block=16), BlockMask.draw(40, 24, 0.5, block=16)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], W), TypeError, "x must be a Tensor, got list"),
        ((X, None), TypeError, "weight must be a Tensor, got NoneType"),
        ((X.int(), W.int()), TypeError, "x must be float32.*got torch.int32"),
        ((X.double(), W), TypeError, "weight must have x's dtype torch.float64, got torch.float32"),
        ((X, W, B.half()), TypeError, "bias must have x's dtype torch.float32, got torch.float16"),
        ((X, W[0]), ValueError, r"weight must be 2-dim \(N, K\), got shape \(32,\)"),
        ((X[0, 0], W), ValueError, "x must have at least one dimension"),
        ((X[:, :30], W), ValueError, r"weight's K = 32, got x of shape \(40, 30\)"),
        ((X, W, B[:3]), ValueError, r"bias must have shape \(24,\), got \(3,\)"),
        ((X, W, 0.0), TypeError, "bias must be a Tensor or None, got float"),
        ((X.to_sparse(), W), TypeError, "x must be a dense tensor, got one with layout torch.sparse_coo"),
        ((X, W.to_sparse()), TypeError, "weight must be a dense tensor, got one with layout torch.sparse_coo"),
        ((X, W.to("meta")), ValueError, "weight must be on x's device cpu, got meta"),
        ((torch.nested.nested_tensor([X]), W), TypeError, "x must be a dense tensor, got a nested one"),
    ],
)
def test_operands(arguments, error, message):
    with pytest.raises(error, match=message):
        sparsedrop.linear(*arguments, drop_in=IN)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"drop_in": OUT}, ValueError, "drop_in must mask 40 × 32 elements, got a mask for 40 × 24"),
        ({"drop_out": IN}, ValueError, "drop_out must mask 40 × 24 elements, got a mask for 40 × 32"),
        ({"drop_in": BlockMask.draw(32, 40, 0.5, block=16)}, ValueError, "drop_in must mask 40 × 32 elements.*32 × 40"),
        ({"drop_in": IN.keep}, TypeError, "drop_in must be a BlockMask or None, got Tensor"),
        ({"drop_in": BlockMask.draw(39, 32, 0.5, block=16)}, ValueError, "drop_in must mask 40 × 32"),
        (
            {"drop_in": BlockMask.draw(40, 32, 0.5, block=16, device="meta")},
            ValueError,
            "drop_in must be on x's device",
        ),
        (
            {"drop_in": BlockMask.draw(40, 32, 0.5, block=(32, 16)), "drop_out": OUT},
            ValueError,
            r"drop_in and drop_out must have equal row blocks, got blocks \(32, 16\) and \(16, 16\)",
        ),
    ],
)
@pytest.mark.parametrize("linear", [sparsedrop.linear, sparsedrop.reference.linear])
def test_masks(linear, masks, error, message):
    with pytest.raises(error, match=message):
        linear(X, W, **masks)


@pytest.mark.parametrize("function", [sparsedrop.dropout_linear, sparsedrop.linear_dropout])
def test_layers(function):
    for layout in (torch.strided, torch.jagged):
        with pytest.raises(TypeError, match="x must be a dense tensor, got a nested one"):
            function(torch.nested.nested_tensor([X], layout=layout), W)
    with pytest.raises(ValueError, match="p must be on cpu, where the mask is drawn, got meta"):
        function(X, W, p=torch.tensor(0.5, device="meta"))


@pytest.mark.parametrize("function", [sparsedrop.dropout_linear, sparsedrop.linear_dropout])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"p": 1.5}, ValueError, "p must be in"),
        ({"p": float("nan")}, ValueError, "p must be in"),
        ({"block": 4}, ValueError, "block must be at least 16"),
        ({"kind": "none"}, ValueError, "kind must be one of"),
    ],
)
def test_options(function, training, options, error, message):
    with pytest.raises(error, match=message):
        function(X, W, B, training=training, **options)


GOOD = {
    "x": X, "weight": W, "bias": B,
    "plan_in": IN.plan, "scale_in": IN.scale, "block_in": [16, 16],
    "plan_out": OUT.plan, "scale_out": OUT.scale, "block_out": [16, 16],
    "revision": REVISION,
}  # fmt: skip

BAD = [
    ({"plan_in": IN.plan[:-1]}, "plan_in"),
    ({"plan_in": IN.plan.long()}, "plan_in"),
    ({"plan_out": None}, "plan_out"),
    ({"scale_in": None}, "scale_in"),
    ({"scale_in": torch.ones(1)}, "scale_in"),
    ({"scale_out": torch.ones((), dtype=torch.float64)}, "scale_out"),
    ({"block_in": [16]}, "block_in"),
    ({"block_in": [0, 16]}, "block_in"),
    ({"block_out": [32, 16]}, "plan_out|block_out"),
    ({"weight": W[:, :5]}, "weight"),
    ({"weight": W.half()}, "weight"),
    ({"bias": B[:5]}, "bias"),
]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("change", "message"), BAD)
def test_op(change, message, traced):
    arguments = {**GOOD, **change}
    if traced:
        arguments = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        torch.ops.sparsedrop.linear(*arguments.values())


def test_weight_grad_refuses_operands_that_do_not_fit():
    masks = [*GOOD.values()][3:]
    for grad in (torch.randn(39, 24), torch.randn(40, 24).half(), torch.randn(40, 24).int()):
        with pytest.raises((ValueError, TypeError, RuntimeError), match="grad"):
            torch.ops.sparsedrop.weight_grad(grad, X, *masks)


def test_weight_grad_without_x_has_no_mask_in():
    for device in ("cpu", "meta"):
        masks = [t.to(device) if isinstance(t, torch.Tensor) else t for t in [*GOOD.values()][3:]]
        with pytest.raises((ValueError, RuntimeError), match="plan_in needs x, got none"):
            torch.ops.sparsedrop.weight_grad(torch.randn(40, 24, device=device), None, *masks)


def test_bad_input_under_compile():
    def call(x):
        return sparsedrop.linear(x, W, drop_in=OUT)

    with pytest.raises(Exception, match="drop_in must mask 40 × 32"):
        torch.compile(call, backend="eager")(X)

"""The modules: nn.Linear's parameters, a probability that can be scheduled, and eval that is the plain linear."""

import copy
import io

import pytest
import torch
from torch import nn

import torch_sparsedrop as sparsedrop

MODULES = pytest.mark.parametrize("module", [sparsedrop.nn.DropoutLinear, sparsedrop.nn.LinearDropout])


@MODULES
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_is_that_of_a_linear(module, bias):
    layer, plain = module(32, 24, bias, p=0.3, block=16), nn.Linear(32, 24, bias)
    assert isinstance(layer, nn.Linear)
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer.load_state_dict(plain.state_dict())
    layer.eval()
    x = torch.randn(40, 32)
    assert torch.equal(layer(x), plain(x))
    layer.train()
    layer.p = 0
    assert torch.equal(layer(x), plain(x))


@MODULES
def test_training_uses_the_function(module):
    layer = module(32, 24, p=0.5, block=16, kind="balanced")
    function = sparsedrop.dropout_linear if "DropoutLinear" in str(module) else sparsedrop.linear_dropout
    x = torch.randn(40, 32)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    assert torch.equal(y, function(x, layer.weight, layer.bias, 0.5, block=16, kind="balanced"))


@MODULES
def test_shallow_copies_share_p_as_they_share_its_buffer(module):
    layer = module(32, 24, p=0.25, block=16)
    shared = copy.copy(layer)
    for p in (0.75, 0.5):
        shared.p = p
        assert layer.p == layer._p.item() == shared.p == shared._p.item() == p
        shared.double()


@MODULES
def test_p_of_a_layer_made_in_inference_mode_can_be_set(module):
    with torch.inference_mode():
        layer = module(32, 24, p=0.25, block=16)
    layer.p = 0.5
    assert layer.p == layer._p.item() == 0.5


@MODULES
def test_p_survives_moves_casts_copies_and_files(module):
    layer = module(32, 24, p=0.1, block=16)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    others = [
        copy.deepcopy(layer),
        torch.load(file, weights_only=False),
        copy.deepcopy(layer).bfloat16(),
        copy.deepcopy(layer).double(),
        module(32, 24, p=0.1, block=16, device="meta").to_empty(device="cpu"),
    ]
    for other in others:
        assert other.p == 0.1
        assert other._p.dtype == torch.float32
        assert other._p.item() == pytest.approx(0.1)


@MODULES
def test_p_survives_loading_into_a_module_without_data(module):
    """As done with ``load_state_dict(assign=True)``, and by transformers, which puts an empty tensor for the buffer."""
    weights = nn.Linear(32, 24).state_dict()
    layer = module(32, 24, p=0.25, block=16, device="meta")
    layer.load_state_dict(weights, assign=True)
    assert layer._p.item() == 0.25
    assert layer(torch.randn(40, 32)).shape == (40, 24)
    layer._p = torch.full((), float("nan"))
    assert layer._p.item() == 0.25
    assert list(layer.state_dict()) == list(weights)


@MODULES
def test_p_can_be_set_after_a_move_in_inference_mode(module):
    layer = module(32, 24, p=0.25, block=16)
    with torch.inference_mode():
        layer.to("cpu").half().float()
    layer.p = 0.5
    assert layer._p.item() == 0.5


@MODULES
@pytest.mark.parametrize("p", [-0.1, 1.01, float("nan"), "a", None, torch.tensor(0.5), nn.Parameter(torch.tensor(0.5))])
def test_bad_p_is_refused_and_leaves_the_old_one(module, p):
    layer = module(32, 24, p=0.25)
    with pytest.raises((ValueError, TypeError), match="p must be"):
        layer.p = p
    assert layer.p == 0.25
    with pytest.raises((ValueError, TypeError), match="p must be"):
        module(32, 24, p=p)


@MODULES
def test_bad_options(module):
    with pytest.raises(ValueError, match="block must be at least 16"):
        module(32, 24, block=8)
    with pytest.raises(ValueError, match="kind must be one of"):
        module(32, 24, kind="x")


@MODULES
def test_repr_says_what_it_drops(module):
    assert "p=0.2, block=(128, 64), kind='bernoulli'" in repr(module(32, 24, p=0.2, block=(128, 64)))

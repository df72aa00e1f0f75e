"""The `torch.compile` backend: inner backends, what stays untouched, caches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets import OPTIONS, Counter, Net
from torch import Tensor, nn
from torch.nn import functional as F
from torch_sparsedrop.passes import SparseDropPass

import torch_sparsedrop

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(3)
    y = model(x)
    y.square().mean().backward()
    grads = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    return y.detach(), grads


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_inner_backends_agree(inner: str) -> None:
    model, x = Net(), torch.randn(2, 40, 64)
    wanted = run(torch.compile(model, backend="sparsedrop", options=OPTIONS), x)
    options = OPTIONS | {"inner": inner} | ({"inductor": {"fallback_random": True}} if inner == "inductor" else {})
    got = run(torch.compile(model, backend="sparsedrop", options=options), x)
    torch.testing.assert_close(got, wanted)


def test_found_without_importing() -> None:
    """By entry point, in a process that never names the package."""
    script = (
        "import torch, sys; m = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(.5))\n"
        "c = torch.compile(m, backend='sparsedrop', options=dict(inner='eager', select='all', block=16))\n"
        "y = c(torch.randn(16, 64)).reshape(16, 4, 16).transpose(0, 1).reshape(4, -1) == 0\n"
        "assert (y.all(1) == y.any(1)).all() and 'torch_sparsedrop' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=300)


def test_eval_is_untouched() -> None:
    counter = Counter()
    net = Net()
    model = torch.compile(net, backend="sparsedrop", options={**OPTIONS, "inner": counter})
    x = torch.randn(2, 20, 64)
    wanted = net.eval()(x)
    assert torch.equal(model(x), wanted)
    assert "sparsedrop" not in counter.graphs[0]


def test_no_live_dropout_is_untouched() -> None:
    counter = Counter()
    net = Net(p=0.0)
    model = torch.compile(net, backend="sparsedrop", options={**OPTIONS, "inner": counter})
    plain = Counter()
    x = torch.randn(20, 64)
    assert torch.equal(model(x), torch.compile(net, backend=plain)(x))
    assert counter.graphs == plain.graphs


def test_small_p_is_nearly_no_dropout() -> None:
    net = Net(p=1e-7)
    x = torch.randn(20, 64)
    y = torch.compile(net, backend="sparsedrop", options=OPTIONS)(x)
    torch.testing.assert_close(y, net.eval()(x))


class Quantised(Tensor):
    """A weight in eight bits, that only knows what PyTorch's linear does with it."""

    @staticmethod
    def __new__(cls, weight: Tensor, scale: Tensor) -> Quantised:
        return Tensor._make_wrapper_subclass(cls, weight.shape, dtype=scale.dtype)  # type: ignore[attr-defined]

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.weight, self.scale = weight, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["weight", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *rest: object) -> Quantised:
        return Quantised(inner["weight"], inner["scale"])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear:
            x, weight, *bias = args
            return F.linear(x, weight.weight.to(x.dtype) * weight.scale, *bias, **kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Quantised(args[0].weight, args[0].scale)
        if function.namespace != "aten":
            raise NotImplementedError(f"{function} of a quantised weight")
        whole = [arg.weight * arg.scale if isinstance(arg, Quantised) else arg for arg in args]
        return function(*whole, **kwargs or {})


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_weights_of_a_subclass(inner) -> None:
    """Whatever Dynamo makes of them, they work as without this library."""
    model, x = Net(), torch.randn(32, 64)
    for linear in (model.fc1, model.fc2):
        scale = linear.weight.detach().abs().amax() / 127
        weight = (linear.weight.detach() / scale).round().to(torch.int8)
        linear.weight = nn.Parameter(Quantised(weight, scale), requires_grad=False)
    expected = model.eval()(x)
    compiled = torch.compile(model.train(), backend="sparsedrop", options={**OPTIONS, "inner": inner})
    compiled(x).sum().backward()
    assert model.fc1.bias.grad is not None
    assert torch.equal(torch.compile(model.eval(), backend="sparsedrop", options=OPTIONS)(x), expected)


def test_insert_only_while_training() -> None:
    """The graph does not say whether it trains: toggling must be noticed all the same."""
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    options = {**OPTIONS, "insert": "linear", "p": 0.5}
    model = torch.compile(net, backend="sparsedrop", options=options)
    x = torch.randn(32, 64)
    wanted = net(x)
    assert not torch.equal(model(x), wanted)
    assert torch.equal(model.eval()(x), wanted)
    assert not torch.equal(model.train()(x), wanted)


def test_a_short_last_block_read_by_others() -> None:
    """What Inductor makes of the tensor that a linear and others read: see `packing.block_of`."""
    net = nn.Linear(300, 8)

    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = F.dropout(x, 0.5)
            return net(h), h * 2

    model = torch.compile(Both(), backend="sparsedrop", dynamic=False, options={"select": "all", "block": 64})
    for _ in range(5):
        junk = [torch.full((64, 300), float("nan")) for _ in range(4)]
        del junk  # what is not written shows it
        h = model(torch.ones(64, 300))[1]
        assert set(h.unique().tolist()) <= {0.0, 4.0}


def test_as_inductor_pass() -> None:
    run_pass = SparseDropPass(select="all", block=16)
    model = torch.compile(Net(), options={"pre_grad_custom_pass": run_pass, "fx_graph_cache": False})
    x = torch.randn(32, 64)
    y = model(x)
    y.sum().backward()
    assert run_pass.matched == {"B": 1, "C": 1}
    blocks = (y - x).detach().view(2, 16, 4, 16).transpose(1, 2).flatten(2) == 0
    assert (blocks.all(2) == blocks.any(2)).all()
    assert run_pass.uuid() == SparseDropPass(select="all", block=16).uuid()
    assert run_pass.uuid() != SparseDropPass(select="all", block=32).uuid()


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_autocast_inside(inner: str) -> None:
    class Inside(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y = self.fc2(self.drop1(F.relu(self.fc1(x))))
            return self.drop2(y)

    net = Inside()
    y = torch.compile(net, backend="sparsedrop", options={**OPTIONS, "inner": inner})(torch.randn(32, 64))
    assert y.dtype == torch.bfloat16
    blocks = y.detach().view(2, 16, 4, 16).transpose(1, 2).flatten(2) == 0
    assert (blocks.all(2) == blocks.any(2)).all()
    y.sum().backward()
    assert net.fc1.weight.grad is not None
    assert net.fc1.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
@pytest.mark.parametrize("transform", ["jvp", "grad", "vjp"])
def test_transforms_in_the_graph(inner: str, transform: str) -> None:
    """They differentiate by rules that our ops do not have: a tangent would be lost."""
    net, x, v = Net(1e-12).double(), *torch.randn(2, 32, 64).double()

    def call(x: Tensor) -> Tensor:
        if transform == "jvp":
            return torch.func.jvp(net, (x,), (v,))[1]
        if transform == "vjp":
            return torch.func.vjp(net, x)[1](v)[0]
        return torch.func.grad(lambda z: (net(z) * v).sum())(x)

    wanted = call(x)
    got = torch.compile(call, backend="sparsedrop", options=OPTIONS | {"inner": inner})(x)
    torch.testing.assert_close(got, wanted)


_CACHED = """
import torch, sys
from torch._dynamo.utils import counters
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Dropout(.5), torch.nn.Linear(128, 64))
if len(sys.argv) > 1:
    import torch_sparsedrop.ops.schema, torch_sparsedrop.ops as ops
    ops.REVISION = torch_sparsedrop.ops.schema.REVISION = 12345
model = torch.compile(net, backend="sparsedrop", options=dict(select="all", block=16))
model(torch.randn(32, 64)).sum().backward()
found = counters["aot_autograd"]
print(found["autograd_cache_hit"], found["autograd_cache_miss"], found["autograd_cache_bypass"])
"""


def test_caches(tmp_path: Path) -> None:
    """A second process hits the cache; another version of the formulas does not."""
    script = tmp_path / "cached.py"
    script.write_text(_CACHED)

    def counts(*args: str) -> str:
        env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-W", "ignore", str(script), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=600).stdout.strip()

    assert counts() == "0 1 0"
    assert counts() == "1 0 0"
    assert counts("changed") == "0 1 0"


def test_training_frame_that_is_skipped() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(64, 64, batch_first=True)
            self.drop = nn.Dropout(0.5)
            self.fc = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.drop(self.lstm(x)[0]))

    net = Recurrent()
    model = torch.compile(net, backend="sparsedrop", options=OPTIONS)
    model(torch.randn(2, 16, 64)).sum().backward()
    assert net.lstm.weight_hh_l0.grad is not None
    rows = torch_sparsedrop.explain(net, torch.randn(2, 16, 64)).to_dict()["sites"]
    assert [row["decision"] for row in rows if row["module"] == "drop"] == ["left"]
    assert "did not capture" in rows[0]["reason"]

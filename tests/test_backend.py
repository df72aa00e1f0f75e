"""The `torch.compile` backend: options, inner backends, shapes that change, caches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_sparsedrop.passes import SparseDropPass

import torch_sparsedrop
from torch_sparsedrop.backend import inductor_config
from torch_sparsedrop.options import Options

OPTIONS: dict[str, Any] = {"select": "all", "block": 16, "inner": "eager"}


class Net(nn.Module):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 128)
        self.fc2 = nn.Linear(128, 64)
        self.drop1 = nn.Dropout(p)
        self.drop2 = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(x)))))


class Gated(Net):
    """A mask repeated for each chunk."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        return x + F.linear(self.drop1(F.gelu(gate) * value), self.fc2.weight[:, :64])


class Residual(Net):
    """A dropout whose result is read by a linear and by others."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(x)
        return x + self.fc2(F.softplus(self.fc1(x)))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


class Counter:
    """An inner backend that counts the graphs it gets."""

    def __init__(self) -> None:
        self.graphs: list[str] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs.append(str(module.graph))
        return module.forward


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


def test_mode_alone_and_in_options() -> None:
    model, x = Net(), torch.randn(32, 64)
    torch.compile(model, backend="sparsedrop", mode="default")(x)
    assert inductor_config(Options.parse({"mode": "max-autotune-no-cudagraphs"}))["max_autotune"] is True
    patches = inductor_config(Options.parse({"mode": "reduce-overhead", "inductor": {"fallback_random": True}}))
    assert patches == {"triton.cudagraphs": True, "fallback_random": True}
    with pytest.raises(ValueError, match="did you mean 'reduce-overhead'"):
        inductor_config(Options.parse({"mode": "reduce_overhead"}))
    with pytest.raises(ValueError, match="did you mean 'fallback_random'"):
        inductor_config(Options.parse({"inductor": {"fallbackrandom": True}}))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"selct": "all"}, ValueError, "did you mean 'select'"),
        ({"select": "some"}, ValueError, "select must be one of"),
        ({"kind": "balance"}, ValueError, "did you mean 'balanced'"),
        ({"p": 1.5}, ValueError, "in \\[0, 1\\]"),
        ({"p": {"a": -1}}, ValueError, "p\\['a'\\]"),
        ({"p": "x"}, TypeError, "p must be"),
        ({"block": 8}, ValueError, "at least 16"),
        ({"block": {"a": (16, 8)}}, ValueError, "at least 16"),
        ({"include": 3}, TypeError, "include"),
        ({"include": "a", "exclude": "a"}, ValueError, "both"),
        ({"insert": "linear"}, ValueError, "needs p="),
        ({"insert": "conv", "p": 0.1}, ValueError, "insert must be one of"),
        ({"inner": "sparsedrop"}, ValueError, "another backend"),
        ({"inner": "inducter"}, ValueError, "got 'inducter', did you mean 'inductor'"),
        ({1: 2}, ValueError, "unknown option 1"),
        ({"p": torch.tensor(7.0)}, TypeError, "p must be a float in \\[0, 1\\], got a tensor"),
        ({"inner": "eager", "mode": "max-autotune"}, ValueError, "inductor"),
        ({"inductor": 3}, TypeError, "inductor"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Options.parse(options)


def test_bad_options_reach_the_user() -> None:
    with pytest.raises(Exception, match="did you mean 'select'"):
        torch.compile(Net(), backend="sparsedrop", options={"selct": "all"})(torch.randn(8, 64))


def test_conflicting_overrides() -> None:
    options = Options.parse({"p": {"a.*": 0.1, "*.b": 0.2}})
    assert options.p_for("a.c") == 0.1
    with pytest.raises(ValueError, match="conflicting overrides of p="):
        options.p_for("a.b")


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
@pytest.mark.parametrize("block", [16, 128], ids=["several columns of blocks", "one column of blocks"])
@pytest.mark.parametrize("network", ["Net", "Gated", "Residual"])
def test_changing_shapes_cost_no_more_compiles(dynamic: bool | None, inner: str, block: int, network: str) -> None:
    """Down to one block of rows, to one row, and up again."""
    sizes = [(8, 48), (8, 33), (3, 48), (5, 40), (2, 4), (2, 48), (1, 3), (1, 1), (8, 40)]
    counts: list[list[int]] = []
    for ours in (False, True):
        torch._dynamo.reset()
        counter = Counter()

        def inside(module: Any, inputs: Any, counter: Counter = counter) -> Any:
            counter.graphs.append("")
            return torch._dynamo.lookup_backend(inner)(module, inputs)

        backend: dict[str, Any] = {"backend": inside}
        if ours:
            backend = {"backend": "sparsedrop", "options": {**OPTIONS, "block": block, "inner": inside}}
        model = torch.compile(globals()[network](), dynamic=dynamic, **backend)
        counts.append([])
        for batch, length in sizes:
            model(torch.randn(batch, length, 64)).sum().backward()
            counts[-1].append(len(counter.graphs))
    assert counts[1] == counts[0]


def test_symbolic_grid() -> None:
    counter = Counter()
    model = torch.compile(Net(), backend="sparsedrop", dynamic=True, options={**OPTIONS, "inner": counter})
    for length in (33, 40, 64):
        y = model(torch.randn(8, length, 64))
        assert y.shape == (8, length, 64)
    assert len(counter.graphs) == 1
    assert "floordiv" in counter.graphs[0]


def test_schedule_of_p_compiles_as_often_as_without() -> None:
    """nn.Dropout.p as a graph input: a Node, not a number."""
    counts = []
    for ours in (False, True):
        torch._dynamo.reset()
        counter = Counter()
        net = Net()
        backend: dict[str, Any] = {"backend": counter}
        if ours:
            backend = {"backend": "sparsedrop", "options": {**OPTIONS, "inner": counter}}
        model = torch.compile(net, **backend)
        for p in (0.1, 0.2, 0.3, 0.4, 0.9):
            net.drop1.p = net.drop2.p = p
            y = model(torch.zeros(1024, 64) + 1) - 1
        counts.append(len(counter.graphs))
        if ours:
            assert "item" in counter.graphs[-1]
            dropped = (y == 0).float().mean().item()
            assert dropped == pytest.approx(0.9, abs=0.08)
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_p_as_a_node_differentiates(inner: str) -> None:
    net = Net()
    model = torch.compile(net, backend="sparsedrop", options={**OPTIONS, "inner": inner})
    for p in (0.1, 0.2, 0.3):
        net.drop1.p = net.drop2.p = p
        model(torch.randn(64, 64)).sum().backward()
    assert net.fc1.weight.grad is not None


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

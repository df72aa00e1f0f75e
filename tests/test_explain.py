"""`explain` tells what happens in training, and leaves the model as it was."""

from __future__ import annotations

import copy
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import CASES

import torch_sparsedrop as sparsedrop

KEYS = {"module", "class", "shape", "p", "decision", "how", "readers", "reason", "flops_share", "saving"}
GLOBAL = numpy.random  # what models draw from
ALL: dict[str, Any] = {"select": "all", "block": 16}


class Net(nn.Module):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.fc1, self.fc2 = nn.Linear(64, 128), nn.Linear(128, 64)
        self.drop1, self.drop2 = nn.Dropout(p), nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(x)))))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


def test_rows() -> None:
    report = sparsedrop.explain(Net(), torch.randn(32, 64), options=ALL).to_dict()
    first, second = report["sites"]
    assert first.keys() == KEYS
    assert (first["module"], first["class"], first["how"], first["shape"]) == (
        "drop1",
        "B",
        "drop_in+drop_out",
        (32, 128),
    )
    assert (second["module"], second["class"], second["how"], second["p"]) == ("drop2", "C", "drop_out", 0.5)
    # Two linears of equal work, all the FLOPs there are: fc1 keeps 1/2, fc2 1/2 · 1/2.
    totals = report["totals"]
    assert totals["flops_share"] == pytest.approx(1.0)
    assert totals["saving"] == pytest.approx((0.5 + 0.75) / 2)
    assert (totals["sites"], totals["fused"], totals["left"]) == (2, 2, 0)
    assert (totals["frames"], totals["graph_breaks"]) == (1, 0)


def test_models_that_differentiate() -> None:
    class Force(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            return self.fc1(torch.autograd.grad(super().forward(x).square().sum(), x, create_graph=True)[0])

    class Gradient(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.func.grad(lambda z: self.fc2(self.drop1(self.fc1(z))).sum())(x)

    assert sparsedrop.explain(Force(), torch.randn(32, 64), options=ALL).totals["fused"] == 2
    left = sparsedrop.explain(Gradient(), torch.randn(32, 64), options=ALL).sites
    assert [row["reason"] for row in left] == ["torch.func.grad, vjp or jvp differentiates it in the graph"]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_buffers(layout: torch.layout) -> None:
    class Graph(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("adjacency", torch.eye(32).to_sparse(layout=layout))

        def forward(self, x: Tensor) -> Tensor:
            GLOBAL.rand()
            return super().forward(self.adjacency @ x)

    model, state = Graph(), GLOBAL.get_state()[1]
    assert sparsedrop.explain(model, torch.randn(32, 64), options=ALL).totals["fused"] == 2
    assert torch.equal(model.adjacency.to_dense(), torch.eye(32))
    assert (GLOBAL.get_state()[1] == state).all()


def test_prints_as_a_table() -> None:
    text = str(sparsedrop.explain(Net(), torch.randn(32, 64), options=ALL))
    assert "drop1" in text
    assert "2 of 2 dropouts fused" in text


def test_plain_table_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    report = sparsedrop.explain(Net(), torch.randn(32, 64), options=ALL)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "drop1   B" in str(report)


def test_sizes_that_depend_on_data() -> None:
    """As of the rows that an expert gets: they are in no sum of work."""

    class Expert(Net):
        def forward(self, x: Tensor) -> Tensor:
            (rows,) = torch.where(x[:, 0] > 0)
            return x.index_add(0, rows, super().forward(x[rows]))

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        report = sparsedrop.explain(Expert(), torch.randn(32, 64), options=ALL)
    assert report.totals["fused"] == 2


def test_models_without_values() -> None:
    with torch.device("meta"):
        report = sparsedrop.explain(Net(), torch.randn(32, 64), options=ALL)
    assert report.totals["fused"] == 2


def test_inserts_only_where_training_does() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    net[0].eval()
    rows = sparsedrop.explain(net, torch.randn(32, 64), options=ALL | {"insert": "linear", "p": 0.9}).to_dict()["sites"]
    assert [row["module"] for row in rows] == ["1"]


def test_what_is_left_keeps_its_own_p() -> None:
    options = ALL | {"p": 0.75, "exclude": "drop2"}
    rows = sparsedrop.explain(Net(0.25), torch.randn(32, 64), options=options).to_dict()["sites"]
    assert [(row["decision"], row["p"]) for row in rows] == [("fused", 0.75), ("left", 0.25)]


@pytest.mark.parametrize("training", [False, True])
def test_leaves_everything_as_found(training: bool) -> None:
    net = Net().train(training)
    net.drop2.eval()
    x = torch.randn(32, 64)
    if training:
        net(x).sum().backward()
    state = copy.deepcopy(net.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    modes = [module.training for module in net.modules()]
    random = torch.get_rng_state()
    report = sparsedrop.explain(net, x, options=ALL)
    assert report.totals["sites"] == (1 if training else 2)
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in net.modules()] == modes
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key
    for p, grad in zip(net.parameters(), grads, strict=True):
        assert (p.grad is None) if grad is None else torch.equal(p.grad, grad)


def test_leaves_what_the_forward_changes() -> None:
    """Parameters written to, buffers and parameters made on the way, and NumPy's random numbers."""

    class Busy(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.fc1.weight.mul_(0.5)
                torch._foreach_add_([self.fc2.bias], 1.0)
                self.fc2.weight.data[0] = 0
            if not hasattr(self, "seen"):
                self.register_buffer("seen", torch.zeros(1), persistent=False)
                self.extra = nn.Parameter(torch.zeros(1))
            return super().forward(x) * float(GLOBAL.rand())

    net = Busy()
    state = copy.deepcopy(net.state_dict())
    pointers = [parameter.data_ptr() for parameter in net.parameters()]
    numbers = GLOBAL.get_state()[1:3]
    sparsedrop.explain(net, torch.randn(32, 64), options=ALL)
    assert list(net.state_dict()) == list(state)
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert [parameter.data_ptr() for parameter in net.parameters()] == pointers
    assert not hasattr(net, "seen")
    after = GLOBAL.get_state()[1:3]
    assert (after[0] == numbers[0]).all()
    assert after[1] == numbers[1]


def test_does_not_initialise_lazy_modules() -> None:
    net, x = nn.Sequential(nn.LazyLinear(64), nn.Dropout(0.5), nn.Linear(64, 64)), torch.randn(32, 64)
    with pytest.raises(ValueError, match="first call this one, to initialise '0'"):
        sparsedrop.explain(net, x, options=ALL)
    assert isinstance(net[0], nn.LazyLinear)
    net(x)
    assert sparsedrop.explain(net, x, options=ALL).totals["fused"] == 1


def test_leaves_what_was_compiled() -> None:
    net, graphs = Net(), []

    def count(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    compiled = torch.compile(net, backend=count)
    compiled(torch.randn(32, 64))
    before = dict(torch._dynamo.utils.counters["stats"])
    sparsedrop.explain(net, torch.randn(48, 64), options=ALL)
    sparsedrop.explain(net, torch.randn(24, 64), options=ALL)
    assert dict(torch._dynamo.utils.counters["stats"]) == before
    compiled(torch.randn(32, 64))
    assert len(graphs) == 1
    compiled(torch.randn(40, 64))
    compiled(torch.randn(56, 64))
    assert len(graphs) == 2  # static, then dynamic: as if explain had not seen other sizes


def test_many_calls_do_not_exhaust_a_limit() -> None:
    net = Net()
    for _ in range(12):
        assert sparsedrop.explain(net, torch.randn(32, 64), options=ALL).totals["fused"] == 2


def test_converted() -> None:
    net = sparsedrop.convert(Net(), inner="eager", select="all", block=16)
    report = sparsedrop.explain(net, torch.randn(32, 64))
    assert report.converted
    assert report.totals["fused"] == 2
    with pytest.raises(ValueError, match="own options"):
        sparsedrop.explain(net, torch.randn(32, 64), options=ALL)
    assert not sparsedrop.explain(sparsedrop.revert(net), torch.randn(32, 64)).converted


def test_unmatched_pattern() -> None:
    with pytest.warns(UserWarning, match="no module matches the pattern 'fc3'"):
        sparsedrop.explain(Net(), torch.randn(32, 64), options={"include": "fc3"})


def test_include_and_exclude() -> None:
    rows = sparsedrop.explain(Net(), torch.randn(32, 64), options=ALL | {"exclude": "drop1"}).to_dict()["sites"]
    assert [row["decision"] for row in rows] == ["left", "fused"]
    rows = sparsedrop.explain(Net(), torch.randn(32, 64), options=ALL | {"include": ["*1"]}).to_dict()["sites"]
    assert [row["decision"] for row in rows] == ["fused", "left"]
    rows = sparsedrop.explain(Net(), torch.randn(32, 64), options=ALL | {"p": {"drop1": 0.25}}).to_dict()["sites"]
    assert [row["p"] for row in rows] == [0.25, 0.5]


def test_graph_breaks() -> None:
    model, batch = CASES["gpt2"].make()
    totals = sparsedrop.explain(model, **batch, options=ALL).to_dict()["totals"]
    assert (totals["frames"], totals["graph_breaks"]) == (2, 1)


def test_data_dependent_control_flow() -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return super().forward(x)
            return super().forward(-x)

    report = sparsedrop.explain(Branching(), torch.randn(32, 64), options=ALL)
    assert report.totals["fused"] == 2
    assert report.totals["graph_breaks"] == 1
    net = sparsedrop.convert(Branching(), inner="eager", **ALL)
    net(torch.randn(32, 64)).sum().backward()
    assert net.fc1.weight.grad is not None


@pytest.mark.parametrize("name", ["t5", "lora-gpt2", "lora-llama"])
def test_names_are_those_of_named_modules(name: str) -> None:
    """Also in frames that begin at a submodule: both stacks of T5, the model inside PEFT's."""
    model, batch = CASES[name].make()
    rows = sparsedrop.explain(model, **batch, options=ALL).to_dict()["sites"]
    modules = dict(model.named_modules())
    assert all(row["module"] in modules for row in rows)
    dropouts = [row["module"] for row in rows if isinstance(modules[row["module"]], nn.Dropout)]
    assert len(dropouts) > len(rows) / 2
    assert len(set(dropouts)) > len(dropouts) * 0.7
    if name == "t5":
        excluded = sparsedrop.explain(model, **batch, options=ALL | {"exclude": "encoder"}).to_dict()["sites"]
        fused = [row["module"] for row in excluded if row["decision"] == "fused"]
        assert fused
        assert all(module.startswith("decoder") for module in fused)


def test_inputs_stay_what_they_were():
    x = torch.randn(4, 64)
    before = x.clone()
    model = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(64, 64))
    sparsedrop.explain(model, x)
    sparsedrop.explain(nn.Sequential(model), input=x[1:])
    assert torch.equal(x, before)

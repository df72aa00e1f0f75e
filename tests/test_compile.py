"""torch.compile and torch.export: fullgraph, few compiles, and masks that stay one mask."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import torch_sparsedrop as sparsedrop
from torch_sparsedrop import BlockMask
from torch_sparsedrop.ops import autograd, schema

pytestmark = pytest.mark.usefixtures("fresh_compiler")

BACKENDS = pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])


@BACKENDS
@pytest.mark.parametrize("sides", ["in", "out", "both"])
def test_same_mask_same_result(backend, sides):
    drop_in = BlockMask.draw(40, 32, 0.4, block=16) if sides != "out" else None
    drop_out = BlockMask.draw(40, 24, 0.4, block=16) if sides != "in" else None
    leaves = [torch.randn(s, requires_grad=True) for s in ((40, 32), (24, 32), (24,))]

    def call(x, weight, bias):
        return sparsedrop.linear(x, weight, bias, drop_in=drop_in, drop_out=drop_out).relu()

    y, expected = torch.compile(call, backend=backend, fullgraph=True)(*leaves), call(*leaves)
    grads = [torch.autograd.grad(result.sum(), leaves) for result in (y, expected)]
    assert torch.equal(y, expected)
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize(("rows", "cols", "block"), [(16, 40, 16), (2, 33, 16), (96, 1000, 128), (300, 200, 128)])
def test_the_compiler_writes_all_of_a_mask(rows, cols, block):
    """Also where the last block is short: Inductor alone would leave out the end of a loop over `place // block`."""
    mask = BlockMask.draw(rows, cols, 0.5, block=block)
    x, expected = torch.randn(rows, cols), mask.dense()
    dense = torch.compile(lambda mask: mask.dense(), dynamic=False)
    dropped = torch.compile(lambda mask, x: torch.where(mask.dense(), x, 0) * 2, dynamic=False)
    for _ in range(5):
        junk = [torch.full((rows, cols), 7, dtype=dtype) for dtype in (torch.uint8, torch.float32) for _ in range(3)]
        del junk  # what is not written shows it
        assert torch.equal(dense(mask), expected)
        assert torch.equal(dropped(mask, x), torch.where(expected, x, 0) * 2)


@BACKENDS
def test_equal_layers_draw_different_masks(backend):
    weight = torch.randn(64, 64, requires_grad=True)

    def twice(x):
        return [sparsedrop.linear_dropout(x, weight, p=0.5, block=16) for _ in range(2)]

    first, second = torch.compile(twice, backend=backend, fullgraph=True)(torch.randn(512, 64))
    assert not torch.equal(first == 0, second == 0)


@BACKENDS
@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
def test_a_compiled_run_reproduces_itself(backend, kind):
    layer = sparsedrop.nn.DropoutLinear(64, 32, p=0.5, block=16, kind=kind)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    x = torch.randn(128, 64)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(compiled(x))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_with_fallback_random_the_compiled_mask_is_the_eager_one():
    x, weight = torch.randn(128, 64), torch.eye(64)

    def call(x):
        return sparsedrop.dropout_linear(x, weight, p=0.5, block=16)

    with torch._inductor.config.patch(fallback_random=True):
        torch.manual_seed(1)
        y = torch.compile(call, fullgraph=True)(x)
    torch.manual_seed(1)
    assert torch.equal(y, call(x))


@pytest.mark.parametrize("module", [sparsedrop.nn.DropoutLinear, sparsedrop.nn.LinearDropout])
def test_a_schedule_of_p_compiles_once(module):
    counter = CompileCounterWithBackend("aot_eager")
    layer = module(64, 32, p=0.1, block=16)
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for p in (0.1, 0.3, 0.55, 0.9, 0.0, 1.0):
        layer.p = p
        y = compiled(torch.randn(640, 64))
        y.sum().backward()
        if p == 0:
            assert (y != 0).all()
    # p = 1 now: only the bias is left after dropout on the input, and nothing after dropout on the output.
    left = layer.bias.expand(640, 32) if module is sparsedrop.nn.DropoutLinear else torch.zeros(640, 32)
    assert torch.equal(y, left)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("backend", "block", "kind"),
    [("aot_eager", 16, "bernoulli"), ("aot_eager", 16, "balanced"), ("aot_eager", 128, "bernoulli"),
     ("aot_eager", 128, "balanced"), ("inductor", 128, "bernoulli")],
)  # fmt: skip
@pytest.mark.parametrize("dynamic", [None, True])
def test_varying_batches_compile_as_often_as_a_plain_linear(backend, block, kind, dynamic):
    def compiles(layer):
        torch._dynamo.reset()
        counter, counts = CompileCounterWithBackend(backend), []
        compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
        for rows in (128, 120, 77, 51, 16, 7, 1, 200, 2):
            y = compiled(torch.randn(rows, 64))
            assert y.shape == (rows, 32)
            y.sum().backward()
            counts.append(counter.frame_count)
        return counts

    plain = compiles(torch.nn.Linear(64, 32))
    assert plain[-1] <= 3
    assert compiles(sparsedrop.nn.DropoutLinear(64, 32, p=0.5, block=block, kind=kind)) == plain
    assert compiles(sparsedrop.nn.LinearDropout(64, 32, p=0.5, block=block, kind=kind)) == plain


# Not "eager": there PyTorch does not restore the random state, and its own dropout draws twice, too.
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_checkpointing_uses_the_forward_mask(backend):
    # The weight is the identity, so that the gradient shows the backward's mask and y the forward's.
    weight = torch.eye(64)

    def block(x):
        return sparsedrop.dropout_linear(x, weight, p=0.5, block=16)

    def call(x):
        return checkpoint(block, x, use_reentrant=False)

    x = torch.ones(128, 64, requires_grad=True)
    y = torch.compile(call, backend=backend, fullgraph=True)(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, dx)
    assert 0 < (dx == 0).double().mean() < 1


def test_export_with_a_dynamic_batch():
    layer = sparsedrop.nn.DropoutLinear(64, 32, p=0.5, block=16)
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(layer, (torch.randn(40, 64),), dynamic_shapes=({0: batch},))
    targets = [str(node.target) for node in program.graph.nodes]
    assert "sparsedrop.linear.default" in targets
    for rows in (40, 111, 16, 2):
        assert program.module()(torch.randn(rows, 64)).shape == (rows, 32)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_mask_as_input(strict):
    class Masked(torch.nn.Linear):
        def forward(self, x, mask):
            return sparsedrop.linear(x, self.weight, self.bias, drop_in=mask)

    layer, x = Masked(64, 32), torch.randn(40, 64)
    mask, other = (sparsedrop.BlockMask.draw(40, 64, 0.5, block=16) for _ in range(2))
    program = torch.export.export(layer, (x, mask), strict=strict)
    assert torch.equal(program.module()(x, other), layer(x, other))


@pytest.mark.parametrize("name", ["autograd.py", "layout.py", "schema.py"])
def test_revision_follows_the_formulas(name, tmp_path, monkeypatch):
    shutil.copytree(schema.Path(schema.__file__).parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "schema.py"))
    assert schema._revision() == schema.REVISION == autograd.REVISION
    (tmp_path / name).write_bytes(b"# changed\n" + (tmp_path / name).read_bytes())
    assert schema._revision() != schema.REVISION


STALE = """
import sys, torch
import torch_sparsedrop as sparsedrop
from torch_sparsedrop.ops import schema, autograd
import torch_sparsedrop.functional as functional
if sys.argv[1] == "new":
    schema.REVISION = autograd.REVISION = functional.REVISION = 123
mask = sparsedrop.BlockMask.from_keep(torch.ones(2, 2, dtype=torch.bool), 32, 32, block=16)
x = torch.ones(32, 32, requires_grad=True)
torch.compile(lambda x: sparsedrop.linear(x, torch.eye(32), drop_in=mask), fullgraph=True)(x).sum().backward()
counters = torch._dynamo.utils.counters["aot_autograd"]
print(counters["autograd_cache_hit"], counters["autograd_cache_miss"])
"""


def test_another_revision_misses_the_compile_cache(tmp_path):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_AUTOGRAD_CACHE": "1"}

    def run(revision):
        command = [sys.executable, "-W", "ignore", "-c", STALE, revision]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()

    assert run("old") == ["0", "1"]
    assert run("old") == ["1", "0"]
    assert run("new") == ["0", "1"]


def test_nothing_is_skipped_silently():
    layer = sparsedrop.nn.DropoutLinear(64, 32, p=0.5, block=16)
    torch.compile(layer, backend="aot_eager")(torch.randn(40, 64))
    assert not counters["graph_break"]


@BACKENDS
def test_compiled_transforms(backend):
    x, weight, bias = torch.randn(2, 40, 32), torch.randn(24, 32), torch.randn(24)
    mask = BlockMask.draw(40, 32, 0.5, block=16)

    def loss(weight, x):
        return sparsedrop.linear(x, weight, bias, drop_in=mask).square().mean()

    for call, examples in ((torch.func.grad(loss), x[0]), (torch.vmap(torch.func.grad(loss), (None, 0)), x)):
        compiled = torch.compile(call, backend=backend, fullgraph=True)
        torch.testing.assert_close(compiled(weight, examples), call(weight, examples))

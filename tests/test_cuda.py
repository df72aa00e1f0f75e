"""The kernels on a GPU: every layout, dtype and block; graphs, streams, statistics, sizes and failures."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import Case, assert_close, assert_zero_where_dropped, random_case
from torch import nn
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.ops import layer as layer_op
from torch_sparsedrop.ops import packing

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

from torch_sparsedrop.providers import cuda
from torch_sparsedrop.providers.cuda import device as devices
from torch_sparsedrop.providers.cuda import matmul
from torch_sparsedrop.providers.cuda.ready import NATIVE
from torch_sparsedrop.providers.triton import plan

pytestmark = pytest.mark.gpu
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
OPS = torch.ops.sparsedrop


@pytest.fixture
def poisoned_memory():
    """New tensors hold NaN, so that an element that a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["own", "hopper", "pointers"])
def reading(request, monkeypatch):
    """As this GPU serves them, with the Hopper kernel at any size, and as GPUs before Hopper read memory."""
    if request.param == "pointers":
        monkeypatch.setattr(devices, "capability", lambda device: (8, 0))
    if request.param == "hopper":
        monkeypatch.setenv("SPARSEDROP_GPU", "hopper")
    matmul.forget()
    yield
    matmul.forget()


def compare(case: Case) -> None:
    y = OPS.linear(case.x, case.weight, case.b, *case.masks())
    assert_close(y, case.expected_linear(), case.k)
    assert_zero_where_dropped(y, case.drop_out)
    dw = OPS.weight_grad(case.grad, case.x, *case.masks())
    assert_close(dw, case.expected_weight_grad(), case.m)
    for _ in range(3):
        assert torch.equal(y, OPS.linear(case.x, case.weight, case.b, *case.masks()))
        assert torch.equal(dw, OPS.weight_grad(case.grad, case.x, *case.masks()))


@pytest.mark.usefixtures("reading", "poisoned_memory")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_random_problems(seed):
    compare(random_case(seed, DTYPES, "cuda", most=700, blocks=(32, 64, 128, 256, 16, 48, 100)))


@pytest.mark.usefixtures("reading", "poisoned_memory")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["in", "out", "both", "none"])
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (64, 32), (128, 128), (256, 256), (32, 256), (256, 32)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mask_blocks(dtype, rows, columns, which):
    case = Case(
        712, 1032, 1288, dtype, "cuda", layouts=("plain", "plain", "plain"),
        block_in=(rows, columns) if which in ("in", "both") else None,
        block_out=(rows, columns) if which in ("out", "both") else None,
    )  # fmt: skip
    compare(case)
    case.weight = case.weight.t().contiguous().t()
    assert_close(OPS.linear(case.x, case.weight, case.b, *case.masks()), case.expected_linear(), case.k)


def test_large_problem():
    """Several words of bitmap, more tiles than multiprocessors."""
    case = Case(9000, 2056, 8328, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 128))
    compare(case)


def test_operands_that_are_copied():
    """Large and of odd widths; and for TF32 those whose rows run the wrong way."""
    compare(Case(1030, 1033, 1031, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 64)))
    case = Case(1040, 1032, 1048, torch.float32, "cuda", block_in=(128, 128))
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        y = OPS.linear(case.x, case.weight.t().contiguous().t(), case.b, *case.masks())
        dw = OPS.weight_grad(case.grad, case.x, *case.masks())
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert_close(y, case.expected_linear(), case.k, tf32=True)
    assert_close(dw, case.expected_weight_grad(), case.m, tf32=True)


@pytest.mark.parametrize("grid", [(1, 1), (128, 32), (128, 8), (512, 128), (2048, 33), (7, 700), (300, 300)])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.usefixtures("poisoned_memory")
def test_plan_and_draw_equal_packing(grid, p):
    rows, cols = grid
    p = torch.tensor(p, device="cuda")
    for balanced in (False, True):
        uniform = torch.rand(rows, cols + balanced, device="cuda")
        uniform[:, cols // 2] = uniform[:, 0]
        for mine, theirs in zip(OPS.draw(uniform, p, balanced), packing.draw(uniform, p, balanced), strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
        uniform = torch.rand(3 * rows, cols + balanced, device="cuda")
        for _ in range(2):  # The second call is the native part's.
            several = OPS.draw(uniform.flatten(), p, balanced, (3, rows, cols))
            for mine, theirs in zip(several, packing.draw(uniform, p, balanced, 3), strict=True):
                assert torch.equal(mine, theirs.flatten() if theirs.dim() else theirs)
    keep = torch.rand(cols, rows, device="cuda").t() >= p
    assert torch.equal(OPS.plan(keep), packing.pack(keep))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "sizes", [(16384, 768, (128, 128)), (1000, 4100, (64, 48)), (33, 7, (16, 16)), (0, 7, (16, 16))]
)
@pytest.mark.parametrize("masked", [False, True])
def test_bias_gradients(dtype, sizes, masked):
    rows, cols, block = sizes
    mask = sparsedrop.BlockMask.draw(rows, cols, 0.3, block=block, device="cuda")
    grad = torch.randn(rows, cols, device="cuda").to(dtype)
    terms = mask.scale * torch.where(mask.dense(), grad.double(), 0) if masked else grad.double()
    if masked:
        grad[~mask.dense()] = float("nan")
    mask_out = (mask.plan, mask.scale, list(block)) if masked else (None, None, [])
    for given in (grad, torch.nn.functional.pad(grad, (0, 3))[:, :cols], grad.t().contiguous().t()):
        arguments = given, None, None, None, [], *mask_out, 0
        # The second call is the native part's where rows lie along memory.
        first, second = (OPS.weight_grad(*arguments) for _ in range(2))
        assert torch.equal(first, second)
        assert first.shape == (cols, 1)
        error = (first.flatten() - terms.sum(0)).abs().max()
        assert error <= (torch.finfo(dtype).eps + 1e-6) * terms.abs().sum(0).max()


@pytest.mark.parametrize("leading", [(4096,), (8, 512), ()])
def test_a_layer_sums_the_gradient_of_its_bias(leading):
    """Without a mask over the output too; a gradient without rows is the sum itself."""
    layer = sparsedrop.nn.DropoutLinear(256, 384, p=0.5, device="cuda")
    x, grad = torch.randn(*leading, 256, device="cuda"), torch.randn(*leading, 384, device="cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        layer(x).backward(grad)
    expected = grad.double().reshape(-1, 384)
    error = (layer.bias.grad - expected.sum(0)).abs().max()
    assert error <= (torch.finfo(torch.float32).eps + 1e-6) * expected.abs().sum(0).max()
    assert any(event.name == "sum_rows" for event in profile.events()) == bool(leading)


def test_dropped_values_are_never_used():
    case = Case(512, 384, 640, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 128))
    expected, gradient = case.expected_linear(), case.expected_weight_grad()
    case.x[~case.drop_in.dense()] = float("nan")
    case.grad[~case.drop_out.dense()] = float("inf")
    assert_close(OPS.linear(case.x, case.weight, case.b, *case.masks()), expected, case.k)
    assert_close(OPS.weight_grad(case.grad, case.x, *case.masks()), gradient, case.m)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients(dtype):
    case = Case(520, 264, 392, dtype, "cuda", block_in=(64, 128), block_out=(64, 64))
    got, want = [], []
    for found, function, wide in ((got, sparsedrop.linear, False), (want, sparsedrop.reference.linear, True)):
        leaves = [t.double() if wide else t for t in (case.x, case.weight, case.b)]
        leaves = [t.detach().requires_grad_() for t in leaves]
        y = function(*leaves, drop_in=case.drop_in, drop_out=case.drop_out)
        y.backward(case.grad.to(y.dtype))
        found += [leaf.grad for leaf in leaves]
    for mine, theirs, terms in zip(got, want, (case.n, case.m, case.m), strict=True):
        assert_close(mine, theirs, terms)
    assert_zero_where_dropped(got[0], case.drop_in)


def test_float32_obeys_the_tf32_setting():
    case = Case(512, 512, 512, torch.float32, "cuda", block_in=(128, 128))
    expected = case.expected_linear()
    assert_close(OPS.linear(case.x, case.weight, case.b, *case.masks()), expected, case.k)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        y = OPS.linear(case.x, case.weight, case.b, *case.masks())
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert_close(y, expected, case.k, tf32=True)
    assert (y.double() - expected).norm() > 1e-5 * expected.norm()


@pytest.mark.skipif(not NATIVE, reason="the native part was not built")
@pytest.mark.parametrize("p", [0.3, 1.0, torch.tensor(0.3)], ids=str)
@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
@pytest.mark.parametrize("which", ["in", "out"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_layer_equals_its_parts(dtype, which, kind, p, monkeypatch):
    """One call of the op does what its parts do, from the first call on."""
    calls = []
    op = layer_op._OP
    monkeypatch.setattr(layer_op, "_OP", lambda *arguments: (calls.append(1), op(*arguments))[1])
    function = sparsedrop.dropout_linear if which == "in" else sparsedrop.linear_dropout
    p = p.cuda() if isinstance(p, torch.Tensor) else p
    shapes = (520, 640), (768, 640), (768,)
    leaves = [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]

    def parts():
        mask = sparsedrop.BlockMask.draw(520, 640 if which == "in" else 768, p, kind=kind, device="cuda")
        return sparsedrop.linear(*leaves, **{f"drop_{which}": mask})

    found = []
    for call in (lambda: function(*leaves, p, kind=kind), lambda: function(*leaves, p, kind=kind), parts):
        torch.manual_seed(5)
        y = call()
        found.append((y, *torch.autograd.grad(y, leaves, y.detach()), torch.rand(4, device="cuda")))
    assert len(calls) == 2
    for one, again, by_parts in zip(*found, strict=True):
        assert torch.equal(one, again)
        assert torch.equal(one, by_parts)


@pytest.mark.skipif(not NATIVE, reason="the native part was not built")
@pytest.mark.parametrize("p", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_a_captured_layer_draws_fresh_masks(p):
    p = p.cuda() if isinstance(p, torch.Tensor) else p
    x = torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16)
    weight = torch.eye(1024, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        sparsedrop.dropout_linear(x, weight, None, p)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = sparsedrop.dropout_linear(x, weight, None, p)
    runs = []
    for _ in range(2):
        torch.manual_seed(11)
        made = []
        for _ in range(6):
            graph.replay()
            made.append(y.clone())
        runs.append(made)
    assert all(torch.equal(one, again) for one, again in zip(*runs, strict=True))
    assert not any(torch.equal(one, after) for one, after in zip(runs[0], runs[0][1:], strict=False))
    for one in runs[0]:
        kept = one != 0
        assert torch.equal(one, torch.where(kept, 2 * x, 0))
        assert 0.15 < float(kept.float().mean()) < 0.85


@pytest.mark.skipif(not NATIVE, reason="the native part was not built")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("number", [False, True], ids=["tensor", "number"])
@pytest.mark.parametrize("wanted", ["hopper", "triton"])
@pytest.mark.parametrize("which", ["in", "out"])
def test_python_serves_only_the_first_call_of_a_kind(which, wanted, number, dtype, monkeypatch):
    monkeypatch.setenv("SPARSEDROP_GPU", wanted)
    matmul.forget()
    served = []
    for name, kernel in (
        ("draw", plan.serve_draw),
        ("linear", matmul.serve_linear),
        ("weight_grad", matmul.serve_weight_grad),
    ):
        monkeypatch.setitem(
            cuda._kernels, name, lambda *args, name=name, kernel=kernel: (served.append(name), kernel(*args))[1]
        )
    function = sparsedrop.dropout_linear if which == "in" else sparsedrop.linear_dropout
    sides = 384, 520, 640
    found = []
    for m in (*sides[:2], *sides[:2]):
        torch.manual_seed(m)
        operands = [torch.randn(shape, device="cuda", dtype=dtype) for shape in ((m, 640), (768, 640), (768,))]
        leaves = [tensor.requires_grad_() for tensor in operands]
        p = 0.5 if number else torch.tensor(0.5, device="cuda")
        y = function(*leaves, p)
        found.append((y, *torch.autograd.grad(y, leaves, y.detach())))
    kinds = ["draw", "linear", "weight_grad"]
    assert sorted(set(served)) == kinds
    assert all(served.count(name) <= 2 * (1 if name == "draw" else 2) for name in kinds), served
    for one, again in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_graph_captured_by_hand():
    case = Case(512, 512, 512, torch.bfloat16, "cuda", block_in=None)
    uniform, p = torch.empty(4, 4, device="cuda"), torch.tensor(0.5, device="cuda")

    def step():
        keep, plan, scale = OPS.draw(uniform.uniform_(), p, False)
        return keep, scale, OPS.linear(case.x, case.weight, None, plan, scale, [128, 128], None, None, [], 0)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep, scale, y = step()
    seen = set()
    for _ in range(8):
        graph.replay()
        mask = sparsedrop.BlockMask.from_keep(keep.clone(), 512, 512, block=128, scale=scale.clone())
        expected = sparsedrop.reference.linear(case.x.double(), case.weight.double(), drop_in=mask)
        assert_close(y, expected, case.k)
        seen.add(tuple(keep.flatten().tolist()))
    assert len(seen) > 4


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_compiled_graphs_draw_fresh_masks(mode):
    torch._dynamo.reset()
    layer = sparsedrop.nn.DropoutLinear(1024, 64, bias=False, p=0.5, device="cuda", dtype=torch.bfloat16)
    x = torch.ones(1024, 1024, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(layer, mode=mode)

    def steps(seed):
        torch.manual_seed(seed)
        found = []
        for _ in range(6):
            layer.weight.grad = None
            y = compiled(x)
            y.float().sum().backward()
            found.append((y.detach().clone(), layer.weight.grad.clone()))
        return found

    steps(1)
    first, again, other = steps(2), steps(2), steps(3)
    for (y, dw), (y_again, dw_again) in zip(first, again, strict=True):
        assert torch.equal(y, y_again)
        assert torch.equal(dw, dw_again)
    assert not torch.equal(first[0][0], other[0][0])
    for i in range(5):
        assert not torch.equal(first[i][0], first[i + 1][0])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("function", [nn.GELU, nn.ReLU])
def test_models_draw_fresh_masks(mode, function):
    """The pass draws three masks at once, and its op computes what lies between two linears."""
    torch._dynamo.reset()
    layers = [(nn.Linear(512, 1024), function(), nn.Dropout(0.5), nn.Linear(1024, 512)) for _ in range(3)]
    model = nn.Sequential(*[module for layer in layers for module in layer]).to("cuda", torch.bfloat16)
    x = torch.randn(1024, 512, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(model, backend="sparsedrop", options={"select": "all", "mode": mode})

    def steps(seed):
        torch.manual_seed(seed)
        found = []
        for _ in range(5):
            model.zero_grad()
            y = compiled(x)
            y.float().square().sum().backward()
            found.append([y.detach().clone(), *(p.grad.clone() for p in model.parameters())])
        return found

    steps(1)
    first, again, other = steps(2), steps(2), steps(3)
    for tensors, tensors_again in zip(first, again, strict=True):
        assert all(map(torch.equal, tensors, tensors_again))
        assert all(tensor.isfinite().all() and tensor.any() for tensor in tensors)
    for tensors, tensors_after in zip(first, [*first[1:], other[0]], strict=True):
        assert not any(map(torch.equal, tensors, tensors_after))


def test_other_streams():
    case = Case(2048, 2048, 2048, torch.bfloat16, "cuda", block_in=(128, 128))
    expected = OPS.linear(case.x, case.weight, case.b, *case.masks())
    source = case.x.clone()
    case.x.fill_(float("nan"))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        case.x.copy_(source)
        y = OPS.linear(case.x, case.weight, case.b, *case.masks())
    side.synchronize()
    assert torch.equal(y, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_devices_other_than_the_current_one():
    case = Case(256, 256, 256, torch.bfloat16, "cuda:1", block_in=(128, 128), block_out=(128, 128))
    compare(case)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["bernoulli", "balanced"])
def test_mask_statistics(kind, compiled):
    """Every block is dropped as often as every other, independently of other layers and steps."""
    torch.manual_seed(0)
    rows, cols, p, steps = 24, 20, 0.3, 1500

    def two_layers():
        masks = [sparsedrop.BlockMask.draw(rows * 128, cols * 128, p, kind=kind, device="cuda").keep for _ in range(2)]
        return torch.stack(masks)

    draw = torch.compile(two_layers) if compiled else two_layers
    keep = torch.stack([draw() for _ in range(steps)]).double()
    spread = (p * (1 - p) / steps) ** 0.5
    assert (keep.mean(0) - (1 - p)).abs().max() < 5.5 * spread
    assert abs(float(keep.mean()) - (1 - p)) < 5 * spread / (2 * rows * cols) ** 0.5
    if kind == "balanced":
        assert (keep.sum(-1) == cols * (1 - p)).all()
    first, second = keep[:, 0].flatten(1), keep[:, 1].flatten(1)
    for one, other in ((first, second), (first[1:], first[:-1])):
        correlation = ((one - (1 - p)) * (other - (1 - p))).mean(0) / (p * (1 - p))
        assert correlation.abs().max() < 5.5 / steps**0.5


@pytest.mark.parametrize("aligned", [True, False])
def test_more_than_two_to_the_31_elements(aligned):
    rows, cols = 2**20 + 256, 2064 if aligned else 2055
    assert rows * cols > 2**31
    x = torch.zeros(rows, cols, device="cuda", dtype=torch.bfloat16)
    x[-512:].normal_()
    weight = torch.randn(16, cols, device="cuda", dtype=torch.bfloat16)
    keep = torch.rand(rows // 256, -(-cols // 256), device="cuda") > 0.5
    mask = sparsedrop.BlockMask.from_keep(keep, rows, cols, block=(256, 256))
    tail = sparsedrop.BlockMask.from_keep(keep[-2:].clone(), 512, cols, block=(256, 256))
    y = sparsedrop.linear(x, weight, drop_in=mask)
    assert_close(y[-512:], sparsedrop.reference.linear(x[-512:].double(), weight.double(), drop_in=tail), cols)
    back = sparsedrop.linear(y, weight.t(), drop_out=mask)
    expected = sparsedrop.reference.linear(y[-512:].double(), weight.t().double(), drop_out=tail)
    assert_close(back[-512:], expected, 16)
    dw = OPS.weight_grad(y, x, mask.plan, mask.scale, [256, 256], None, None, [], 0)
    masked = torch.where(tail.dense(), x[-512:], 0).double()
    assert_close(dw, y[-512:].double().t() @ masked, 512)


def test_out_of_memory_leaves_the_next_call_working():
    case = Case(1024, 1024, 1024, torch.bfloat16, "cuda", block_in=(128, 128))
    expected = OPS.linear(case.x, case.weight, case.b, *case.masks())
    free, _ = torch.cuda.mem_get_info()
    columns = 2 * free // 1024 // 2
    weight = case.weight[:1].expand(columns, 1024)
    with pytest.raises(torch.OutOfMemoryError):
        sparsedrop.linear(case.x, weight, drop_in=case.drop_in)
    assert torch.equal(OPS.linear(case.x, case.weight, case.b, *case.masks()), expected)


def test_a_layer_needs_less_memory_than_dropout_and_linear():
    x = torch.randn(8192, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    ours = sparsedrop.nn.DropoutLinear(4096, 4096, p=0.1, device="cuda", dtype=torch.bfloat16)
    theirs = nn.Sequential(nn.Dropout(0.1), nn.Linear(4096, 4096, device="cuda", dtype=torch.bfloat16))
    peaks = []
    for layer in (ours, theirs):
        for _ in range(2):
            x.grad = None
            layer.zero_grad()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            y = layer(x)
            y.backward(F.relu(y.detach()))
            peak = torch.cuda.max_memory_allocated() - before
            del y
        peaks.append(peak)
    assert peaks[0] < peaks[1]

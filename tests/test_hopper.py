"""The Hopper kernel on its own GPU: what only it does. The cases that all kernels share are in test_cuda.py."""

from __future__ import annotations

import random

import pytest
import torch
from kernel_cases import Case, all_products, compare_products, random_hopper_case

from torch_sparsedrop import BlockMask

if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
    pytest.skip("there is no Hopper GPU", allow_module_level=True)

from torch_sparsedrop.providers import hopper
from torch_sparsedrop.providers.cuda import matmul, ready
from torch_sparsedrop.providers.hopper import launch

pytestmark = pytest.mark.gpu
OPS = torch.ops.sparsedrop
DTYPES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch):
    """The kernel also where another is faster, and new tensors full of NaN."""
    monkeypatch.setenv("SPARSEDROP_GPU", "hopper")
    matmul.forget()
    monkeypatch.setattr(ready, "_told", set())
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    matmul.forget()


def served() -> int:
    return sum(isinstance(known, launch.Launch) for known in matmul._known.values())


def products(case: Case) -> tuple[torch.Tensor, ...]:
    return all_products(case, OPS.linear, OPS.weight_grad)


def compare(case: Case) -> None:
    compare_products(case, OPS.linear, OPS.weight_grad)


def test_it_is_what_serves():
    assert hopper.status(torch.device("cuda", 0), torch.bfloat16).serves
    compare(Case(1024, 1024, 1024, torch.bfloat16, "cuda", block_in=(128, 128)))
    assert served() == 3


@pytest.mark.parametrize("seed", range(60))
def test_random_problems(seed):
    compare(random_hopper_case(seed, DTYPES, "cuda"))
    assert served() > 0


@pytest.fixture
def side_by_side(monkeypatch):
    """Thread blocks that share A also for small problems."""
    monkeypatch.setattr(launch, "_pair", lambda spec: 2 if spec.out is None else 1)


@pytest.mark.parametrize("seed", range(30))
def test_random_problems_side_by_side(seed, side_by_side):
    case = random_hopper_case(seed, DTYPES, "cuda")
    compare(case)
    # With both masks, C is sparse or Triton serves.
    paired = any(known.pair == 2 for known in matmul._known.values() if isinstance(known, launch.Launch))
    assert paired or (case.drop_in is not None and case.drop_out is not None)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_large_problems_are_computed_side_by_side(p):
    case = Case(8192, 8192, 8192, torch.bfloat16, "cuda", p=p, block_in=(128, 128))
    compare(case)
    assert {known.pair for known in matmul._known.values() if isinstance(known, launch.Launch)} == {1, 2}


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize(
    "shape", [(128, 128, 128), (8, 256, 128), (136, 264, 72), (4096, 4096, 512), (512, 512, 16384)]
)
def test_all_and_nothing(shape, p):
    for blocks in ({"block_in": (128, 128)}, {"block_in": None, "block_out": (128, 128)}):
        compare(Case(*shape, torch.bfloat16, "cuda", p=p, **blocks))


@pytest.mark.parametrize("shape", [(2**18 + 136, 256, 128), (60000, 9000, 256)])
def test_more_rows_than_one_launch_takes(shape):
    compare(Case(*shape, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 128)))
    assert max(len(known.launches) for known in matmul._known.values() if isinstance(known, launch.Launch)) > 1


def test_dropped_values_are_never_used():
    case = Case(1024, 1024, 1024, torch.bfloat16, "cuda", block_in=(128, 128), block_out=(128, 128), p=0.5)
    clean = products(case)
    case.x[~case.drop_in.dense()] = torch.nan
    case.grad[~case.drop_out.dense()] = torch.inf
    for got, expected in zip(products(case), clean, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("m", "n", "k", "side", "pair"),
    [
        (2048, 1024, 4096, "in", 1), (8192, 4096, 1024, "in", 1), (8192, 4096, 1024, "out", 1),
        (2048, 1024, 4096, "in", 2), (8192, 4096, 1024, "in", 2),
    ],
)  # fmt: skip
def test_graph_replays_draw_and_divide_anew(m, n, k, side, pair, monkeypatch):
    """Tiles that are summed in parts, or taken by who comes first, in a captured graph whose masks, and with them the
    tiles, change at each replay."""
    monkeypatch.setattr(launch, "_pair", lambda spec: pair)
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    cols = k if side == "in" else n
    keep = torch.ones(m // 128, cols // 128, dtype=torch.bool, device="cuda")

    def run() -> torch.Tensor:
        mask = BlockMask.from_keep(keep, m, cols, block=(128, 128))
        masked, free = (mask.plan, mask.scale, [128, 128]), (None, None, [])
        return OPS.linear(x, weight, None, *(masked + free if side == "in" else free + masked), 0)

    with torch.cuda.stream(torch.cuda.Stream()):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run()
    for i in range(20):
        keep.copy_(torch.rand(keep.shape, device="cuda") >= (0.5, 0.9, 0.1, 0.97)[i % 4])
        graph.replay()
        assert torch.equal(y, run())
    assert {known.pair for known in matmul._known.values()} == {pair}


@pytest.mark.parametrize("launches", [pytest.param(10_000, marks=pytest.mark.full), 500])
def test_soak_on_two_streams(launches, monkeypatch):
    """Many launches of mixed shapes under way at once: every result has the bits of the first."""
    monkeypatch.setattr(launch, "_pair", lambda spec: 2 if spec.out is None and spec.b.lines % 3 else 1)
    cases = [random_hopper_case(1000 + seed, DTYPES, "cuda", most=2600) for seed in range(24)]
    expected = [products(case) for case in cases]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    counts = [torch.zeros_like(wrong) for _ in streams]
    rng = random.Random(0)
    for i in range(launches // 3):
        which, stream = rng.randrange(len(cases)), i % 2
        with torch.cuda.stream(streams[stream]):
            for got, first in zip(products(cases[which]), expected[which], strict=True):
                counts[stream] += (got != first).any()
    torch.cuda.synchronize()
    assert sum(int(count) for count in counts) == 0

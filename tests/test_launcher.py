"""What the launcher asks of the CUDA driver, with a driver that only writes down what it is asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from torch_sparsedrop.providers.cuda.problem import Mask, Operand, Spec
from torch_sparsedrop.providers.hopper import launch

SCRIPT = """
import threading
from torch_sparsedrop import _host as host
lists = (0, 0, 0, 0, 0)
kernel = host.load_kernel(b"code", "masked_matmul", 1000, 3)
box = (64, 32, 128, 64, 16)
ready = host.Launch(
    device=3, kernel=kernel, blocks=132, shared_bytes=1000, type=9, boxes=(box,) * 4, walk=lists, out=lists,
    sizes=(32, 32, 64), first_row=0, rows=1, lines=1, together=1, panel=32, panels=1, sections=1, rows_per_block=1,
)
assert host.hopper_workspace(132) == 132 * (128 * 256 * 4 + 8) + 16
call = lambda: ready(7, [10, 20, 30, 0, 0, 0, 0, 0, 0, 4096])
call()
thread = threading.Thread(target=call)
thread.start()
thread.join()
try:
    host.load_kernel(b"!", "masked_matmul", 1000, 3)
except RuntimeError as error:
    print(error)
"""


def test_what_the_driver_is_asked(ask: Callable[[str], list[str]]) -> None:
    launched = ["launch attribute 6 = 1", "132 blocks of 384, 1000 bytes, stream 0x7: 10 20 30 30"]
    assert ask(SCRIPT) == [
        "context of 103",
        "kernel masked_matmul",
        "attribute 8 = 1000",
        *["map 9: 64 x 32, 128 bytes, box 64 x 16"] * 4,
        *launched,
        "context of 103",  # the other thread has none of its own
        *launched,
        "loading a kernel: fake failure (42)",
    ]


def test_old_drivers_start_kernels_one_after_another(ask: Callable[[str], list[str]]) -> None:
    assert "launch attribute 6 = 1" in ask(SCRIPT)
    assert not any(
        "launch attribute" in line for line in ask("import os; os.environ['FAKE_DRIVER'] = '12020'" + SCRIPT)
    )


def test_a_launch_leaves_the_threads_context_as_it_was(ask: Callable[[str], list[str]]) -> None:
    kernel = "kernel = host.load_kernel(b'code', 'masked_matmul', 1000, 4)\n"
    lines = ask(SCRIPT.replace("kernel = ", kernel + "kernel = ").split("thread =")[0])
    assert [line for line in lines if "context" in line] == [f"context of {n}" for n in (104, 103, 104, 103, 104)]


TRITON = """
from torch_sparsedrop import _host as host
kernel = host.load_kernel(b"code", "matmul", 1000, 3)
def launch(*parameters):
    return host.Launch.of_triton(3, kernel, (5, 6, 7), 128, 1000, parameters)
launch(("address", 6), ("i32", -8), ("i64", 0), ("i64", 0))(7, [*range(10, 20)])
launch(("address", 6), ("number", 3), ("i64", 0), ("i64", 0))(7, [*range(10, 20)])
for wrong in ("i64", -8), ("i32", -8), ("f32", 0):
    try:
        launch(("address", 6), wrong, *[("i64", 0)] * (3 if wrong[0] == "i32" else 2))
    except (RuntimeError, ValueError) as error:
        print(error)
"""


def test_kernels_of_triton(ask: Callable[[str], list[str]]) -> None:
    """A number is given in the place of an address. Parameters of other sizes than the compiled kernel's, or of another
    number, are refused."""
    refused = "the kernel takes other parameters"
    launched = [f"5 x 6 x 7 blocks of 128, 1000 bytes, stream 0x7: 16 {second}" for second in (-8, 13)]
    unknown = "a parameter must be address, number, map, i32 or i64, got f32"
    assert ask(TRITON)[3:] == [*launched, refused, refused, unknown]


def test_from_a_problem_to_the_driver(ask: Callable[[str], list[str]]) -> None:
    """X (140,000, 4096), masked, times W (4096, 4096): more rows than three launches take, and enough that pairs of
    thread blocks share a box of X, half each."""
    lines = ask("""
from test_launcher import spec
from torch_sparsedrop.providers.cuda import device
from torch_sparsedrop.providers.hopper import kernel, launch
device.multiprocessors = lambda _: 132
kernel.machine_code = lambda variant: b"code"
ready = launch.Launch(spec(140_000, 4096, 4096, (128, 128), "in"))
for part in ready.launches:
    part(7, [10, 20, 30, 0, 0, 0, 40, 0, 0, 4096])
""")
    maps = [
        "map 9: 4096 x 140000, 8192 bytes, box 64 x 64",
        "map 9: 4096 x 4096, 8192 bytes, box 64 x 128",
        "map 9: 4096 x 140000, 8192 bytes, box 64 x 64",
        "map 9: 4096 x 140000, 8192 bytes, box 64 x 8",
    ]
    launched = ["launch attribute 6 = 1", "132 blocks of 384, 232448 bytes, stream 0x7: 10 20 30 30"]
    assert lines[3:] == [*maps * 4, *launched * 4]


def spec(m: int, n: int, k: int, block: tuple[int, int], side: str) -> Spec:
    """A product with a mask over its input or its output."""
    cols = k if side == "in" else n
    mask = Mask(block, (-(-m // block[0]), -(-cols // block[1])))
    into, out = (mask, None) if side == "in" else (None, mask)
    operands = Operand(m, k, k, 1), Operand(n, k, k, 1), Operand(m, n, n, 1)
    return Spec(torch.device("cuda", 0), torch.bfloat16, "tf32", *operands, into, None, out, False)


@pytest.mark.parametrize("side", ["in", "out"])
@pytest.mark.parametrize(
    ("m", "n", "k", "block", "refused"),
    [
        (16384, 4096, 4096, (128, 128), None),
        (2**19, 4096, 4096, (128, 128), None),
        (2**20, 4096, 4096, (128, 128), "rows"),  # more lines than the kernel counts
        (16384, 50304, 1024, (16384, 128), "rows"),  # one block's rows exceed a launch
        (4096, 4096, 4096, (128, 2**21), "columns"),  # one block's steps exceed 16 bits
        (4096, 4096, 4096, (64, 128), "multiples"),
        (4096, 4100, 4100, (128, 128), "16 bytes"),
    ],
)
def test_problems_that_the_kernel_refuses(m, n, k, block, refused, side):
    reason = launch._unfit(spec(m, n, k, block, side))
    assert reason is None if refused is None else refused in reason


@pytest.mark.parametrize("side", ["in", "out"])
@pytest.mark.parametrize("block", [(128, 128), (256, 64), (384, 4096), (8192, 128)])
@pytest.mark.parametrize("pair", [1, 2])
@pytest.mark.parametrize("shape", [(128, 128, 128), (100_000, 4096, 1024), (1000, 120_000, 512)])
def test_launches_fit_the_kernels_table(shape, block, side, pair):
    problem = spec(*shape, block, side)
    if launch._unfit(problem) is None:
        rows = launch.Rows.of(problem, pair)
        host = launch.kernel.host()
        assert 0 < rows.in_a_block * rows.sections <= host.most_rows
        assert rows.lines * rows.in_a_block * host.tile[0] >= shape[0]
        assert rows.panels * rows.panel * host.slab >= shape[1]
        assert rows.panel % (pair * host.tile[1] // host.slab) == 0


@pytest.mark.parametrize(
    ("m", "n", "k", "side", "pair"),
    [
        (8192, 8192, 8192, "in", 2),
        (8192, 8192, 8192, "out", 1),  # tiles of a row are where the mask keeps them
        (8192, 4096, 4096, "in", 1),  # too small to gain
        (16384, 8192 + 256, 8192, "in", 1),  # two thirds of the last tiles would lie outside
        (128, 2**20, 8192, "in", 2),
    ],
)
def test_large_problems_are_computed_by_pairs(monkeypatch, m, n, k, side, pair):
    monkeypatch.setattr(launch.devices, "multiprocessors", lambda _: 132)
    assert launch._pair(spec(m, n, k, (128, 128), side)) == pair
    monkeypatch.setattr(launch.devices, "multiprocessors", lambda _: 131)
    assert launch._pair(spec(m, n, k, (128, 128), side)) == 1


def test_pairs_only_where_a_launch_holds_their_rows(monkeypatch):
    """Here the rows of a block of the mask would end with half tiles, for which a launch's table is too short."""
    monkeypatch.setattr(launch.devices, "multiprocessors", lambda _: 132)
    problem = spec(14464, 13056, 8192, (14464, 128), "in")
    assert launch._unfit(problem) is None
    assert launch._pair(problem) == 1

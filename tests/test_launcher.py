"""What the launcher asks of the CUDA driver, with a driver that only writes down what it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torch_sparsedrop.providers.cuda.problem import Mask, Operand, Spec
from torch_sparsedrop.providers.hopper import launch

DRIVER = r"""
#include <cstdio>
static __thread void* context;
extern "C" {
int cuGetErrorString(int, const char** text) { *text = "fake failure"; return 0; }
int cuDeviceGet(int* handle, int device) { *handle = device + 100; return 0; }
int cuCtxGetCurrent(void** current) { *current = context; return 0; }
int cuCtxSetCurrent(void* wanted) { context = wanted; return 0; }
int cuDevicePrimaryCtxRetain(void** made, int handle) {
  std::printf("context of %d\n", handle);
  *made = &context;
  return 0;
}
int cuModuleLoadData(void** module, const void* code) {
  if (*static_cast<const char*>(code) == '!') return 42;
  *module = &context;
  return 0;
}
int cuModuleGetFunction(void** function, void*, const char* name) {
  std::printf("kernel %s\n", name);
  *function = &context;
  return 0;
}
int cuFuncSetAttribute(void*, int attribute, int value) {
  std::printf("attribute %d = %d\n", attribute, value);
  return 0;
}
int cuTensorMapEncodeTiled(unsigned long long* map, int type, unsigned, void*, const unsigned long long* size,
                           const unsigned long long* stride, const unsigned* box, const unsigned*, int, int, int,
                           int) {
  std::printf("map %d: %llu x %llu, %llu bytes, box %u x %u\n", type, size[0], size[1], stride[0], box[0], box[1]);
  return map[0] = 0;
}
int cuTensorMapReplaceAddress(unsigned long long* map, void* address) {
  map[0] = reinterpret_cast<unsigned long long>(address);
  return 0;
}
int cuLaunchKernel(void*, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned shared,
                   void* stream, void** parameters, void**) {
  const unsigned long long* maps = static_cast<unsigned long long*>(parameters[0]);
  std::printf("%u blocks of %u, %u bytes, stream %p: %llu %llu %llu %llu\n", blocks, threads, shared, stream, maps[0],
              maps[16], maps[32], maps[48]);
  std::fflush(stdout);
  return context ? 0 : 201;
}
}
"""

SCRIPT = """
import threading
from torch_sparsedrop import _host as host
lists = (0, 0, 0, 0, 0)
kernel = host.load_kernel(b"code", "masked_matmul", 1000, 3)
box = (64, 32, 128, 64, 16)
ready = host.Launch(
    device=3, kernel=kernel, blocks=132, shared_bytes=1000, type=9, boxes=(box,) * 4, walk=lists, out=lists,
    sizes=(32, 32, 64), first_row=0, rows=1, lines=1, panels=1, rows_per_block=1,
)
assert ready.workspace_bytes == 132 * (128 * 256 * 4 + 8)
call = lambda: ready(7, 10, 20, 30, 0, 0, 0, 0, 0, 4096)
call()
thread = threading.Thread(target=call)
thread.start()
thread.join()
try:
    host.load_kernel(b"!", "masked_matmul", 1000, 3)
except RuntimeError as error:
    print(error)
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs a script with that driver; what the driver and the script print."""
    (tmp_path / "driver.cpp").write_text(DRIVER)
    command = ["g++", "-shared", "-fPIC", str(tmp_path / "driver.cpp"), "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run(command, check=True)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": paths}

    def run(script: str) -> list[str]:
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_what_the_driver_is_asked(ask: Callable[[str], list[str]]) -> None:
    launched = "132 blocks of 384, 1000 bytes, stream 0x7: 10 20 30 30"
    assert ask(SCRIPT) == [
        "context of 103",
        "kernel masked_matmul",
        "attribute 8 = 1000",
        *["map 9: 64 x 32, 128 bytes, box 64 x 16"] * 4,
        launched,
        "context of 103",  # the other thread has none of its own
        launched,
        "loading a kernel: fake failure (42)",
    ]


def test_from_a_problem_to_the_driver(ask: Callable[[str], list[str]]) -> None:
    """X (140,000, 4096), masked, times W (4096, 4096): rows for the first launch, and for a second one."""
    lines = ask("""
from test_launcher import spec
from torch_sparsedrop.providers.cuda import device
from torch_sparsedrop.providers.hopper import kernel, launch
device.multiprocessors = lambda _: 132
kernel.machine_code = lambda variant: b"code"
ready = launch.Launch(spec(140_000, 4096, 4096, (128, 128), "in"))
for part in ready.launches:
    part(7, 10, 20, 30, 0, 0, 0, 40, 0, 4096)
""")
    maps = [
        "map 9: 4096 x 140000, 8192 bytes, box 64 x 128",
        "map 9: 4096 x 4096, 8192 bytes, box 64 x 128",
        "map 9: 4096 x 140000, 8192 bytes, box 64 x 64",
        "map 9: 4096 x 140000, 8192 bytes, box 64 x 8",
    ]
    launched = "132 blocks of 384, 232448 bytes, stream 0x7: 10 20 30 30"
    assert lines[3:] == [*maps, *maps, launched, launched]


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
@pytest.mark.parametrize("shape", [(128, 128, 128), (100_000, 4096, 1024), (1000, 120_000, 512)])
def test_launches_fit_the_kernels_table(shape, block, side):
    problem = spec(*shape, block, side)
    if launch._unfit(problem) is None:
        rows = launch.Rows.of(problem)
        host = launch.kernel.host()
        assert 0 < rows.in_a_block * rows.panels <= host.most_rows
        assert rows.lines * rows.in_a_block * host.tile[0] >= shape[0]
        assert rows.panels * host.panel * host.slab >= shape[1]

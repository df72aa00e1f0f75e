"""What the native part passes to Triton's kernels, against what the compiled kernels take; no GPU is needed."""

from __future__ import annotations

import importlib.util
import warnings

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

SCRIPT = r"""
import os
import re
os.environ["TRITON_INTERPRET"] = "0"
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Utils:
    def load_binary(self, *arguments):
        return 1, 2, 3, 4, 1024
    def unload_module(self, module):
        pass
    def get_device_properties(self, device):
        return {"max_shared_mem": 232448, "multiprocessor_count": 132}

class Driver:
    utils = Utils()
    def launcher_cls(self, source, metadata):
        return None
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0

driver.set_active(Driver())
run = JITFunction.run
JITFunction.run = lambda self, *arguments, warmup, **options: run(self, *arguments, warmup=True, **options)

from kernel_cases import Case
from torch_sparsedrop.providers.cuda import matmul
from torch_sparsedrop.providers.triton import activate, launch, plan, start
from torch_sparsedrop.providers.triton.tiles import choose

BYTES = {"address": 8, "number": 4, "i32": 4, "i64": 8, "map": 128}

def native(compiled, grid, arguments, slots):
    meta = compiled.metadata
    assert (meta.num_ctas, meta.launch_pdl, meta.launch_cooperative_grid) == (1, False, False)
    assert (meta.global_scratch_size, meta.profile_scratch_size) == (0, 0)
    listed = start.parameters(compiled.src.signature.values(), arguments, slots, meta.tensordesc_meta)
    text = compiled.asm["ptx"]
    entry = text[text.index(".entry") : text.index(".reqntid")]
    found = re.findall(r"\.param.*?\.[ubf](\d+)[^,\n]*?(?:\[(\d+)\])?,?\n", entry)
    taken = [int(length or 1) * int(bits) // 8 for bits, length in found]
    assert [BYTES[kind] for kind, *_ in listed] == taken, (listed, entry)
    # It may be started while the kernel before it ends.
    early, late = text[text.index(".reqntid") :].split("griddepcontrol.wait")
    assert not re.search(r"\b(ld|st|atom|red|cp|prefetch)\.(?!param)", early), early
    # Short ones let the next one begin, but not before.
    assert "griddepcontrol.launch" not in early
    assert ("griddepcontrol.launch_dependents" in late) == (compiled.name in ("make_plan", "sum_rows", "add_rows"))
    print(compiled.name, len(listed), sum(kind == "map" for kind, *_ in listed))

start.native = native
start.NATIVE = True
launch.tile_for = lambda problem: choose(problem)._replace(parts=2 if problem.reduction else 1)
one = (16, 16)
for dtype in torch.bfloat16, torch.float32:
    for case in Case(64, 48, 32, dtype, "cpu", one, None), Case(64, 48, 32, dtype, "cpu", one, one, bias=False), \
                Case(63, 47, 33, dtype, "cpu", None, one):
        matmul.linear(case.x, case.weight, case.b, *case.masks())
        matmul.weight_grad(case.grad, case.x, *case.masks())
case = Case(64, 48, 32, torch.bfloat16, "cpu", None, one)
matmul.weight_grad(case.grad, torch.ones(64, 1, dtype=torch.bfloat16), *case.masks())
matmul.weight_grad(case.grad, None, *case.masks())
matmul.weight_grad(case.grad, None, *[None, None, []] * 2, 0)
rest = 0, case.drop_out.plan, one, 0
activate.activate(case.grad, case.b, *rest)
activate.activate_grad(case.grad, case.grad, case.b, *rest)
for balanced in False, True:
    for p in torch.tensor(0.5), 0.5:
        plan.draw(torch.rand(4, 3 + balanced), p, balanced)
        plan.draw(torch.rand(100 * (30 + balanced)), p, balanced, (100, 30))
"""


def test_parameters_are_those_of_the_compiled_kernel(ask) -> None:
    lines = [line.split() for line in ask(SCRIPT)]
    kernels = [name for name, *_ in lines]
    assert {name: kernels.count(name) for name in kernels} == {
        "matmul": 12, "add_parts": 6, "make_plan": 8, "sum_rows": 3, "activate": 2, "add_rows": 4,
    }  # fmt: skip
    assert {int(maps) for name, _, maps in lines if name == "matmul"} == {0, 2, 3}


def test_a_kernel_that_the_native_part_cannot_start_is_told_once(monkeypatch):
    from torch_sparsedrop.providers.cuda import ready
    from torch_sparsedrop.providers.triton import start

    monkeypatch.setattr(ready, "_told", set())
    with pytest.warns(UserWarning, match="Triton starts its kernels itself.*no attribute 'metadata'"):
        assert start.native(object(), (1, 1, 1), (), ()) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert start.native(object(), (1, 1, 1), (), ()) is None

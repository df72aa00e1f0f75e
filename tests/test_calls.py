"""Calls of the CUDA ops that Python has no part in, on CPU tensors and with a driver that only writes down.

Python's part is played by kernels whose launches write down all ten addresses that they are started with.
"""

from __future__ import annotations

import struct

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("a GPU is here: test_cuda.py runs these calls", allow_module_level=True)

SCRIPT = """
import ctypes
import torch
ctypes.CDLL("libtorch_cuda.so", mode=ctypes.RTLD_GLOBAL)
import torch_sparsedrop as sparsedrop
from torch_sparsedrop import _host as host
from torch_sparsedrop.providers import reference
from torch_sparsedrop.providers.cuda.matmul import _x_is_a
from torch_sparsedrop.providers.cuda.ready import Ready, failed, packed

OPS = torch.ops.sparsedrop
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
kernel = host.load_kernel(b"code", "matmul", 1000, 3)

def launch(slot):
    parameters = ("address", slot), ("i32", slot), ("i64", 0), ("i64", 0)
    return host.Launch.of_triton(3, kernel, (1, 2, 1), 32, 0, parameters)

ready = Ready([launch(slot) for slot in range(10)], 4096)

def first(name):
    def op(*arguments):
        print("first", name, flush=True)
        if error is not None:
            return failed(error)
        if name == "draw":
            uniform, p, number, *rest = arguments
            arguments = uniform, number if p is None else p, *rest
        results = getattr(reference, name)(*arguments)
        return [*(results if isinstance(results, tuple) else [results]), packed(ready)]
    return op

error = None
library = torch.library.Library("sparsedrop", "IMPL")
for name in ("draw", "linear", "weight_grad", "activate", "activate_grad"):
    library.impl("first_" + name, first(name), "CPU")

precision = "ieee"
library.impl("tf32", lambda: precision == "tf32", "CompositeExplicitAutograd", allow_override=True)

def call(name, *arguments):
    result = getattr(OPS, name).default.redispatch(CUDA, *arguments)
    given = [*arguments, *(result if isinstance(result, tuple) else [result])]
    names = {t.data_ptr(): i for i, t in enumerate(given) if isinstance(t, torch.Tensor)} | {0: None}
    print("given", names)
    return result

def masks(m, n, k, which):
    drawn = [sparsedrop.BlockMask.draw(m, cols, 0.5, block=(16, 16)) for cols in (k, n)]
    parts = [(mask.plan, mask.scale, mask.block) for mask in drawn]
    into, out = (part if side in which else (None, None, ()) for side, part in zip(("in", "out"), parts))
    return *into, *out, 0

x, grad, weight, bias = torch.randn(64, 48), torch.randn(64, 32), torch.randn(32, 48), torch.randn(32)
"""


def started(lines: list[str]) -> list[object]:
    """For each call "first", or the arguments and results whose addresses the launches had; 0 is none."""
    calls: list[object] = []
    addresses: list[int] = []
    for line in lines:
        if line.startswith("first"):
            calls.append("first")
        elif line.startswith("given") and addresses:
            names = eval(line.removeprefix("given"))
            assert [int(a.split()[1]) for a in addresses] == list(range(10))
            calls.append([names.get(int(a.split()[0]), "workspace") for a in addresses])
            addresses = []
        elif "blocks of 32" in line:
            addresses.append(line.split(": ")[1])
    return calls


def test_linear(ask) -> None:
    lines = ask(
        SCRIPT
        + """
both = masks(64, 32, 48, ("in", "out"))
for _ in range(2):
    call("linear", x, weight, bias, *both)
    call("linear", x, weight, None, *masks(64, 32, 48, ("in",)))
    call("linear", x.view(4, 16, 48), weight, None, *masks(64, 32, 48, ("out",)))
"""
    )
    x, weight, bias, plan_in, scale_in, plan_out, scale_out, y, space = 0, 1, 2, 3, 4, 6, 7, 10, "workspace"
    assert started(lines) == [
        *["first"] * 3,
        [x, weight, y, bias, scale_in, scale_out, plan_in, None, plan_out, space],
        [x, weight, y, None, scale_in, None, plan_in, None, None, space],
        [x, weight, y, None, None, scale_out, None, None, plan_out, space],
    ]


def test_weight_grad(ask) -> None:
    """Which side is a is said in C++ as it is in Python."""
    lines = ask(
        SCRIPT
        + """
for which in ("in", "out"), ("in",), ("out",), ():
    for columns in 48, 16:
        drawn = masks(64, 32, columns, which)
        for _ in range(2):
            call("weight_grad", grad, x[:, :columns].contiguous(), *drawn)
        print("x is a:", _x_is_a(32, columns, drawn[0], drawn[3]))
for which in ("out",), ():
    drawn = masks(64, 32, 48, which)
    for _ in range(2):
        call("weight_grad", grad, None, *drawn)
"""
    )
    *calls, _, masked, _, plain = started(lines)
    swapped = [line.endswith("True") for line in lines if line.startswith("x is a")]
    assert calls[::2] == ["first"] * 8
    assert swapped == [False, False, True, True, False, False, True, False]
    grad, x, plan_in, scale_in, plan_out, scale_out, dw, space = 0, 1, 2, 3, 5, 6, 9, "workspace"
    plans = [(plan_in, plan_out)] * 2 + [(plan_in, None)] * 2 + [(None, plan_out)] * 2 + [(None, None)] * 2
    for call, x_is_a, (into, out) in zip(calls[1::2], swapped, plans, strict=True):
        scales = scale_in if into else None, scale_out if out else None
        sides = [x, grad, dw] if x_is_a else [grad, x, dw]
        walks = [into, None] if x_is_a else [out, into]
        assert call == [*sides, None, *scales, *walks, None, space]
    assert masked == [grad, None, dw, None, None, scale_out, plan_out, None, None, space]
    assert plain == [grad, None, dw, *[None] * 6, space]


def test_draw(ask) -> None:
    lines = ask(
        SCRIPT
        + """
p = torch.tensor(0.5)
for balanced in False, True:
    cases = (torch.rand(3, 4 + balanced), ()), (torch.rand(3 * (4 + balanced)), (3, 4)), (torch.rand(2), (1, 1))
    cases += (torch.rand(6 * (4 + balanced)), (2, 3, 4)),
    for uniform, grid in cases:
        if balanced and len(uniform) == 2:
            continue
        for _ in range(2):
            made = call("draw", uniform, p, balanced, grid)
            print([(tuple(t.shape), t.dtype) for t in made])
"""
    )
    uniform, p, keep, plan, scale = 0, 1, 4, 5, 6
    assert started(lines) == ["first", [uniform, p, keep, plan, scale, *[None] * 4, "workspace"]] * 7
    shapes = [line for line in lines if line.startswith("[")]
    assert len(shapes) == 14
    assert shapes[::2] == shapes[1::2]


def test_activate(ask) -> None:
    lines = ask(
        SCRIPT
        + """
plan = sparsedrop.BlockMask.draw(64, 32, 0.5, block=(16, 16)).plan
dy = torch.randn(64, 32)
for added in bias, None, bias.half():
    for function in 0, 1:
        for _ in range(2):
            made = call("activate", grad, added, function, plan, (16, 16), 0)
            made = [made, *call("activate_grad", dy, grad, added, function, plan, (16, 16), 0)]
            print([(tuple(t.shape), t.dtype) for t in made])
"""
    )
    calls = started(lines)
    for i in range(0, 24, 4):
        bias_at = None if i in (8, 12) else 1
        assert calls[i : i + 2] == ["first", "first"]
        assert calls[i + 2] == [0, None, 6, bias_at, None, 3, *[None] * 3, "workspace"]
        # The gradient of no bias has no elements, so that it may have an address or none.
        x, dy, dx, bias, db, plan, *rest = calls[i + 3]
        assert [x, dy, dx, bias, plan, *rest] == [1, 0, 7, bias_at and 2, 4, *[None] * 3, "workspace"]
        assert db == 8 or bias_at is None
    shapes = [line for line in lines if line.startswith("[")]
    assert len(shapes) == 12
    assert shapes[::2] == shapes[1::2]


CHANGES = """
x = x[:32]; drawn = masks(32, 32, 48, ("in",))
x = x.t().contiguous().t()
x = torch.cat([torch.zeros(1), x.flatten()])[1:].view(64, 48)
x, weight, bias = x.half(), weight.half(), bias.half()
x = x[None]
bias = None
weight = weight[:1].expand(32, 48)
drawn = masks(64, 32, 48, ("in", "out"))
mask = sparsedrop.BlockMask.draw(64, 48, 0.5, block=(32, 16)); drawn = mask.plan, mask.scale, mask.block, *drawn[3:]
OPS.forget()
"""


def test_what_a_launch_depends_on(ask) -> None:
    changes = [line for line in CHANGES.splitlines() if line]
    lines = ask(
        SCRIPT
        + f"""
begin = x, weight, bias, masks(64, 32, 48, ("in",))
call("linear", x, weight, bias, *begin[3])
for change in {changes!r}:
    x, weight, bias, drawn = begin
    exec(change)
    for _ in range(2):
        call("linear", x, weight, bias, *drawn)
"""
    )
    calls = started(lines)
    assert calls[:1] + calls[1::2] == ["first"] * (1 + len(changes))
    assert "first" not in calls[2::2]


def test_what_cannot_be_repeated_goes_to_python_each_time(ask) -> None:
    lines = ask(
        SCRIPT
        + """
ready = None
for _ in range(3):
    call("linear", x, weight, bias, *masks(64, 32, 48, ("in",)))
"""
    )
    assert started(lines) == ["first"] * 3


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("number", [False, True])
def test_layer(out: bool, number: bool, ask) -> None:
    """The draw's launch and the product's, the first's results among the second's operands."""
    lines = ask(
        SCRIPT
        + f"""
p = (None, 0.25) if {number} else (torch.tensor(0.5), 0.0)
for _ in range(2):
    call("layer", x, weight, bias, torch.rand(4 * {2 if out else 3}), *p, False, {out}, (16, 16), 0)
"""
    )
    x, weight, bias, uniform, p, y, plan, scale = 0, 1, 2, 3, 4, 10, 11, 12
    assert [line for line in lines if "first" in line] == ["first draw", "first linear"]
    starts = [int(line.split(": ")[1].split()[0]) for line in lines if "blocks of 32" in line]
    assert len(starts) == 20
    names = eval(next(line for line in reversed(lines) if "given" in line).removeprefix("given"))
    draw, product = ([names.get(address, "other") for address in part] for part in (starts[:10], starts[10:]))
    assert starts[1] == struct.unpack("I", struct.pack("f", 0.25))[0] if number else draw[1] == p
    assert [draw[0], *draw[3:5]] == [uniform, plan, scale]
    masks = [None, scale, None, None, plan] if out else [scale, None, plan, None, None]
    assert product == [x, weight, y, bias, *masks, "other"]


def test_float32_depends_on_the_tf32_setting(ask) -> None:
    lines = ask(
        SCRIPT
        + """
drawn = masks(64, 32, 48, ("in",))
for precision in "ieee", "tf32", "ieee", "tf32":
    call("linear", x, weight, bias, *drawn)
    call("weight_grad", grad, x, *drawn)
for precision in "ieee", "tf32":
    call("linear", x.half(), weight.half(), bias.half(), *drawn)
"""
    )
    calls = started(lines)
    assert [call == "first" for call in calls] == [True] * 4 + [False] * 4 + [True, False]


def test_an_error_keeps_its_text(ask) -> None:
    lines = ask(
        SCRIPT
        + """
for error in ValueError("x must be something else"), KeyError():
    try:
        call("linear", x, weight, bias, *masks(64, 32, 48, ("in",)))
    except RuntimeError as raised:
        print(raised)
"""
    )
    assert [line for line in lines if not line.startswith("first")][-2:] == ["x must be something else", "KeyError"]


def test_a_number_where_the_reference_serves(monkeypatch) -> None:
    """As on a GPU that is too old."""
    from torch_sparsedrop.providers import cuda

    monkeypatch.setattr(cuda, "why_not", lambda index: "it is too old")
    uniform = torch.rand(12)
    *drawn, _ = cuda._first_draw(uniform, None, 0.3, False, (3, 4))
    expected = torch.ops.sparsedrop.draw(uniform, torch.tensor(0.3), False, (3, 4))
    assert all(map(torch.equal, drawn, expected))
    assert len(drawn) == len(expected)

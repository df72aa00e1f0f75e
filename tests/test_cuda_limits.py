"""Sizes, memory, streams and devices on a GPU."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import Case, assert_close, compare_products
from torch import nn
from torch.nn import functional as F

import torch_sparsedrop as sparsedrop

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

pytestmark = pytest.mark.gpu
OPS = torch.ops.sparsedrop


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
    compare_products(case, OPS.linear, OPS.weight_grad)


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

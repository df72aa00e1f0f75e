"""The packed plan: one layout, and a grid that survives packing."""

import subprocess

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_sparsedrop.ops import layout, packing

sizes = st.integers(0, 140)


@given(sizes, sizes, st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 1.0]))
def test_plan_describes_the_grid(rows, cols, seed, p):
    torch.manual_seed(seed)
    keep = torch.rand(rows, cols) >= p
    plan = torch.ops.sparsedrop.plan(keep)
    at = layout.layout(rows, cols)
    assert plan.dtype == torch.int32
    assert plan.shape == (at.size,)
    assert torch.equal(packing.unpack(plan, rows, cols), keep)
    parts = {name: plan[start:end].tolist() for name, start, end in zip(at._fields, at, at[1:], strict=False)}
    for side, grid in (("row", keep), ("col", keep.t())):
        lists = [row.nonzero().flatten().tolist() for row in grid]
        counts = [len(kept) for kept in lists]
        assert parts[f"{side}_count"] == counts
        width = grid.shape[1]
        for i, kept in enumerate(lists):
            assert parts[f"{side}_index"][i * width : i * width + len(kept)] == kept
        order = parts[f"{side}_order"]
        assert sorted(order) == list(range(grid.shape[0]))
        assert [counts[i] for i in order] == sorted(counts, reverse=True)
        words = 2 * ((width + 63) // 64)
        for i, kept in enumerate(lists):
            row = [word % 2**32 for word in parts[f"{side}_bits"][i * words : (i + 1) * words]]
            assert sum(word << (32 * j) for j, word in enumerate(row)) == sum(1 << j for j in kept)


def test_bitmaps_can_be_read_as_64_bit_words():
    for rows in range(6):
        for cols in (0, 1, 63, 64, 65, 200):
            at = layout.layout(rows, cols)
            assert at.row_bits % 2 == 0
            assert at.col_bits % 2 == 0
            assert at.size % 4 == 0


@pytest.mark.parametrize("keep", [torch.zeros(3), torch.zeros(2, 2), torch.zeros(2, 2, 2, dtype=torch.bool)])
def test_plan_refuses_what_is_not_a_grid(keep):
    with pytest.raises((ValueError, RuntimeError), match="keep must be"):
        torch.ops.sparsedrop.plan(keep)


def test_c_header_says_the_same(tmp_path):
    (tmp_path / "plan_layout.h").write_text(layout.c_header())
    grids = [(0, 0), (1, 1), (3, 70), (128, 64), (65, 129)]
    calls = "".join(f"show(sparsedrop::plan_layout({rows}, {cols}));" for rows, cols in grids)
    fields = layout.PlanLayout._fields
    prints = "".join(f'printf("%lld ", at.{field});' for field in fields)
    (tmp_path / "main.cpp").write_text(
        '#include <cstdio>\n#include "plan_layout.h"\n'
        f"static void show(sparsedrop::PlanLayout at) {{ {prints} }}\nint main() {{ {calls} }}\n"
    )
    subprocess.run(["g++", "-std=c++17", "-o", tmp_path / "main", tmp_path / "main.cpp"], check=True)
    printed = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    assert [int(word) for word in printed.split()] == [n for grid in grids for n in layout.layout(*grid)]

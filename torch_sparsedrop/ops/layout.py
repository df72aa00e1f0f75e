"""Where each part of a packed plan lies: the one definition for Python, C++ and CUDA.

A plan describes a keep grid of ``rows`` × ``cols`` blocks in one int32 tensor whose size
depends on the grid alone. `layout` gives the offsets to Python; `c_header` writes the same
expressions as C, which the build includes in the compiled kernels.
"""

from __future__ import annotations

from typing import NamedTuple

# name, length in int32 words, meaning. The bitmaps come first: they are read as 64-bit words.
# Every length is an expression in rows and cols that means the same in Python and in C.
SECTIONS = (
    ("row_bits", "rows * 2 * ((cols + 63) // 64)", "one bit per column block, for each row block"),
    ("col_bits", "cols * 2 * ((rows + 63) // 64)", "one bit per row block, for each column block"),
    ("row_count", "rows", "kept column blocks in each row block"),
    ("col_count", "cols", "kept row blocks in each column block"),
    ("row_order", "rows", "row blocks, most kept blocks first"),
    ("col_order", "cols", "column blocks, most kept blocks first"),
    ("row_index", "rows * cols", "kept column blocks of each row block, ascending, then dropped ones"),
    ("col_index", "cols * rows", "kept row blocks of each column block, ascending, then dropped ones"),
)


class PlanLayout(NamedTuple):
    """Offsets of the parts of a plan, in int32 words; ``size`` is their total length, in whole 16 bytes: of plans that
    lie behind each other in one tensor, each is then aligned."""

    row_bits: int
    col_bits: int
    row_count: int
    col_count: int
    row_order: int
    col_order: int
    row_index: int
    col_index: int
    size: int


_LENGTHS = tuple(compile(length, name, "eval") for name, length, _ in SECTIONS)


def layout(rows: int, cols: int) -> PlanLayout:
    """Offsets for a grid of ``rows`` × ``cols`` blocks. Symbolic sizes give symbolic offsets."""
    offsets = [rows * 0]
    for length in _LENGTHS:
        offsets.append(offsets[-1] + eval(length, {"rows": rows, "cols": cols}))
    offsets[-1] = (offsets[-1] + 3) // 4 * 4
    return PlanLayout(*offsets)


def c_header() -> str:
    """The same layout as a C++ header, for the host compiler, nvcc and NVRTC alike."""
    lines = [
        "// Generated from torch_sparsedrop/ops/layout.py; do not edit.",
        "#pragma once",
        "#ifdef __CUDACC__",
        "#define SPARSEDROP_HOST_DEVICE __host__ __device__",
        "#else",
        "#define SPARSEDROP_HOST_DEVICE",
        "#endif",
        "namespace sparsedrop {",
        "struct PlanLayout {",
        *(f"  long long {name};  // {meaning}" for name, _, meaning in SECTIONS),
        "  long long size;",
        "};",
        "SPARSEDROP_HOST_DEVICE constexpr PlanLayout plan_layout(long long rows, long long cols) {",
        "  PlanLayout at{};",
    ]
    previous, before = "0", "0"
    for name, length, _ in SECTIONS:
        lines.append(f"  at.{name} = {previous} + {before};")
        previous, before = f"at.{name}", f"({length.replace('//', '/')})"
    lines.append(f"  at.size = ({previous} + {before} + 3) / 4 * 4;")
    lines += ["  return at;", "}", "}  // namespace sparsedrop", ""]
    return "\n".join(lines)

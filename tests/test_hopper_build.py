"""The Hopper kernel's way from source to machine code, on a machine without a GPU."""

from __future__ import annotations

import itertools
import multiprocessing

import pytest
import torch

from torch_sparsedrop.providers.hopper import kernel, nvrtc

VARIANTS = [
    kernel.Variant(dtype, a, b, c, piece)
    for dtype, (a, b, c), piece in itertools.product(
        (torch.bfloat16, torch.float16),
        ((False, False, False), (False, True, False), (True, True, False), (True, True, True)),
        (64, 128),
    )
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDROP_CACHE", str(tmp_path / "cache"))


def test_compiler_is_found():
    """The development environment brings NVRTC, as PyTorch's CUDA wheels do."""
    assert nvrtc.why_not() is None


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_compiles(variant):
    assert kernel.compile(variant)[:4] == b"\x7fELF"


def test_cache_is_used(monkeypatch):
    first = kernel.compile(VARIANTS[0])
    monkeypatch.setattr(nvrtc, "compile", lambda *_: pytest.fail("compiled again"))
    assert kernel.compile(VARIANTS[0]) == first


def test_another_source_is_another_entry():
    a = nvrtc.compiled("__global__ void kernel() {}", {}, [])
    b = nvrtc.compiled("__global__ void other() {}", {}, [])
    assert a != b
    assert len(list(nvrtc.cache_folder().glob("*.cubin"))) == 2


def test_errors_show_the_compilers_log():
    with pytest.raises(nvrtc.CompileError, match=r"undefined_name"):
        nvrtc.compiled("__global__ void kernel() { undefined_name(); }", {}, ["-DX=1"])


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSEDROP_CACHE", str(tmp_path / "file" / "below"))
    assert nvrtc.compiled("__global__ void kernel() {}", {}, [])


def _compile_one(_: int) -> bytes:
    return nvrtc.compiled("__global__ void kernel(int* x) { *x = 1; }", {}, [])


def test_processes_compile_at_once():
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        codes = pool.map(_compile_one, range(8), chunksize=1)
    assert len(set(codes)) == 1
    assert [path.suffix for path in nvrtc.cache_folder().iterdir()] == [".cubin"]

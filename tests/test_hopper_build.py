"""The Hopper kernel's way from source to machine code, on a machine without a GPU."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import re
from pathlib import Path

import pytest
import torch

from torch_sparsedrop.providers.cache import cache_folder
from torch_sparsedrop.providers.hopper import kernel, nvrtc

VARIANTS = [
    kernel.Variant(dtype, a, b, c, piece, pair)
    for a, b, c in itertools.product((False, True), repeat=3)
    for dtype, piece, pair in ((torch.bfloat16, 128, 1), (torch.float16, 64, 1), (torch.bfloat16, 128, 2))
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDROP_CACHE", str(tmp_path / "cache"))


def test_compiler_is_found():
    """The development environment brings NVRTC, as PyTorch's CUDA wheels do."""
    assert nvrtc.why_not() is None


def compiled_with_remarks(options: list[str], caplog: pytest.LogCaptureFixture) -> tuple[bytes, str]:
    """The machine code, and what the assembler says of it."""
    with caplog.at_level(logging.DEBUG, logger=nvrtc.__name__):
        code = nvrtc.compiled(*kernel.sources(), [*options, "--ptxas-options=-v"])
    return code, caplog.text


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_compiles_to_fast_code(variant, caplog):
    """A small change can make the assembler put a wait behind each multiplication, or keep sums in memory."""
    code, said = compiled_with_remarks(variant.options(), caplog)
    assert code[:4] == b"\x7fELF"
    assert "Potential Performance Loss" not in said
    assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}


def test_assembler_says_when_they_wait(monkeypatch, caplog):
    source, headers = kernel.sources()
    eager = headers["consumer.cuh"].replace("wgmma_wait<1>();", "if (threadIdx.x == steps) c[before % 8] += 1.f;")
    monkeypatch.setattr(kernel, "sources", lambda: (source, headers | {"consumer.cuh": eager}))
    assert "Potential Performance Loss" in compiled_with_remarks(VARIANTS[0].options(), caplog)[1]


def test_cache_is_used(monkeypatch):
    first = kernel.machine_code(VARIANTS[0])
    monkeypatch.setattr(nvrtc, "run", lambda *_: pytest.fail("compiled again"))
    assert kernel.machine_code(VARIANTS[0]) == first


def test_damaged_entries_are_made_anew():
    code = kernel.machine_code(VARIANTS[0])
    (entry,) = cache_folder().iterdir()
    entry.write_bytes(entry.read_bytes()[:1000])
    assert kernel.machine_code(VARIANTS[0]) == code
    assert len(entry.read_bytes()) > len(code)


def test_user_without_a_home(monkeypatch):
    monkeypatch.delenv("SPARSEDROP_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder().name.startswith("torch_sparsedrop_")


def test_another_source_is_another_entry():
    a = nvrtc.compiled("__global__ void kernel() {}", {}, [])
    b = nvrtc.compiled("__global__ void other() {}", {}, [])
    assert a != b
    assert len(list(cache_folder().glob("*.cubin"))) == 2


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
    assert [path.suffix for path in cache_folder().iterdir()] == [".cubin"]

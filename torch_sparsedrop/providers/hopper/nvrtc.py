"""CUDA source to machine code by the compiler that PyTorch's wheels bring, with a cache on disk."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cache import cache_folder

ARCHITECTURE = "sm_90a"
_logger = logging.getLogger(__name__)


class CompileError(RuntimeError):
    """The compiler refused a kernel; the message holds its log."""


def compiled(source: str, headers: Mapping[str, str], options: Sequence[str]) -> bytes:
    """The machine code, from the cache where it holds it."""
    options = [f"--gpu-architecture={ARCHITECTURE}", "-std=c++17", *options]
    key = hashlib.sha256(repr((version(), source, sorted(headers.items()), options)).encode()).hexdigest()
    path = cache_folder() / f"{key[:32]}.cubin"
    code = _stored(path)
    if code is None:
        code = run(source, headers, options)
        # A cache that cannot be written costs the next process a second.
        with contextlib.suppress(OSError):
            _store(path, code)
    return code


def _stored(path: Path) -> bytes | None:
    """What the cache holds whole: its digest, then the machine code."""
    try:
        digest, code = path.read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return None
    return code if digest == _digest(code) else None


def _store(path: Path, code: bytes) -> None:
    """Whole or not at all, whoever else writes the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_digest(code) + b"\n" + code)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


def _digest(code: bytes) -> bytes:
    return hashlib.sha256(code).hexdigest().encode()


def run(source: str, headers: Mapping[str, str], options: Sequence[str]) -> bytes:
    """What the compiler makes of the source."""
    library = _library()
    program = ctypes.c_void_p()
    texts = [text.encode() for text in headers.values()]
    names = [name.encode() for name in headers]
    _check(
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), b"masked_matmul.cu", len(names), _strings(texts), _strings(names)
        )
    )
    try:
        encoded = [option.encode() for option in options]
        code = library.nvrtcCompileProgram(program, len(encoded), _strings(encoded))
        if code != 0:
            raise CompileError(f"NVRTC {version()} cannot compile {' '.join(options)}:\n{_log(program)}")
        _logger.debug("NVRTC %s, %s:\n%s", version(), " ".join(options), _log(program))
        return _output(program, "nvrtcGetCUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _log(program: ctypes.c_void_p) -> str:
    return _output(program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(_library(), f"{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(_library(), what)(program, buffer))
    return buffer.raw


def _strings(values: Sequence[bytes]) -> Any:
    return (ctypes.c_char_p * len(values))(*values)


def _check(code: int) -> None:
    if code != 0:
        text = _library().nvrtcGetErrorString
        text.restype = ctypes.c_char_p
        raise CompileError(f"NVRTC: {text(code).decode()}")


@functools.cache
def version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


@functools.cache
def why_not() -> str | None:
    """Why there is no compiler; None where there is one."""
    try:
        _library()
    except OSError as error:
        return f"NVRTC does not load: {error}"
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    """From the wheels beside torch, or from a CUDA toolkit that the system finds."""
    folders = [folder for place in _packages() for folder in sorted(Path(place).glob("*/lib"), reverse=True)]
    wanted = (torch.version.cuda or "13.0").split(".")[0]
    name = f"libnvrtc.so.{wanted}"
    for folder in folders:
        if (folder / name).exists():
            # It looks for its built-ins by name only, which finds them if they are loaded already.
            for builtins in folder.glob(f"libnvrtc-builtins.so.{wanted}*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(folder / name))
    return ctypes.CDLL(name)


def _packages() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    return list(spec.submodule_search_locations or ()) if spec else []

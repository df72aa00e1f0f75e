"""Builds the native part for setuptools: ``_kernels.so``, which torch loads (the ops on CPUs, and on GPUs their
quick calls), and ``_host`` (pybind11).

Torch is not a build requirement, for an isolated build would download gigabytes: its headers are found
in the environment that the package is installed into. Where they, a compiler or a tool is missing, or
the compiler fails, the package installs without the native part and ``_build.json`` keeps the reason.
``SPARSEDROP_BUILD=0`` leaves the native part out, ``SPARSEDROP_BUILD=1`` makes its failure an error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "torch_sparsedrop"
OLDEST_TORCH = (2, 11)

AVX2 = "-mavx2 -mfma -mf16c"
AVX512 = f"{AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl"
ISAS = {"baseline": ""}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS |= {"avx2": AVX2, "avx512": AVX512, "avx512_bf16": f"{AVX512} -mavx512bf16"}
    ISAS |= {"amx_bf16": f"{AVX512} -mavx512bf16 -mamx-tile -mamx-bf16"}

FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=fast -Wall -Wextra -Wno-maybe-uninitialized"
HOST = ("host", "launcher")
# In both: what starts CUDA kernels.
START = ("driver", "launch")
KERNELS = ("arguments", "kernels_for", "isa", "library", "linear", "masked_matmul", "masked_sum", "plan", "weight_grad")


class Unavailable(Exception):
    """Why the native part cannot be built."""


class BuildExt(build_ext):
    def run(self) -> None:
        package = Path(self.build_lib, PACKAGE)
        package.mkdir(parents=True, exist_ok=True)
        for folder in (package, *([ROOT / PACKAGE] if self.inplace else [])):
            for stale in (*folder.glob("_kernels.so"), *folder.glob("_host.*"), *folder.glob("_build.json")):
                stale.unlink()
        report: dict[str, object] = {"native": False, "reason": None, "python": platform.python_version()}
        wanted = os.environ.get("SPARSEDROP_BUILD", "")
        try:
            if wanted == "0":
                raise Unavailable("SPARSEDROP_BUILD=0 left it out")
            report |= self.compile(package)
            report["native"] = True
        except Unavailable as error:
            if wanted == "1":
                raise CompileError(f"the native part cannot be built: {error}") from error
            report["reason"] = str(error)
            print(f"{PACKAGE}: installing without native CPU kernels: {error}", file=sys.stderr)
        (package / "_build.json").write_text(json.dumps(report, indent=1) + "\n")
        if self.inplace:
            for built, source in self.get_output_mapping().items():
                self.copy_file(built, source)

    def compile(self, package: Path) -> dict[str, object]:
        compiler, torch, ninja, pybind11 = find_compiler(), find_torch(), find_ninja(), find_pybind11()
        work = Path(self.build_temp, "native").resolve()
        work.mkdir(parents=True, exist_ok=True)
        (work / "plan_layout.h").write_text(plan_layout_header())
        host = "_host" + str(sysconfig.get_config_var("EXT_SUFFIX"))
        version = self.distribution.get_version()
        isas = dict(ISAS)
        if "amx_bf16" in isas and not knows_amx(compiler, isas["amx_bf16"], work):
            del isas["amx_bf16"]
        (work / "build.ninja").write_text(build_graph(compiler, isas, torch, pybind11, host, version, work))
        done = subprocess.run([ninja, "-C", str(work)], capture_output=True, text=True)
        if done.returncode:
            raise Unavailable("the compiler failed:\n" + (done.stdout + done.stderr)[-4000:])
        for name in ("_kernels.so", host):
            shutil.copy2(work / name, package / name)
        return {"compiler": compiler, "torch": torch_version(torch), "isas": list(isas)}

    def outputs(self) -> list[Path]:
        package = Path(self.build_lib, PACKAGE)
        return sorted([*package.glob("_kernels.so"), *package.glob("_host.*"), *package.glob("_build.json")])

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.outputs()]

    def get_output_mapping(self) -> dict[str, str]:
        if not self.inplace:
            return {}
        return {str(path): str(ROOT / PACKAGE / path.name) for path in self.outputs()}

    def get_source_files(self) -> list[str]:
        """What a source distribution needs besides the Python packages."""
        files = [path for kind in ("*.py", "*.cpp", "*.h", "*.cu", "*.cuh") for path in (ROOT / "csrc").rglob(kind)]
        return sorted(str(path.relative_to(ROOT)) for path in files)


def knows_amx(compiler: str, flags: str, work: Path) -> bool:
    """Whether compiler and assembler know AMX, which is younger than all else that is compiled here."""
    source = work / "amx.cpp"
    source.write_text("#include <immintrin.h>\nvoid release() { _tile_release(); }\n")
    command = [*shlex.split(compiler), *flags.split(), "-c", str(source), "-o", str(work / "amx.o")]
    return subprocess.run(command, capture_output=True).returncode == 0


def build_graph(
    compiler: str, isas: dict[str, str], torch: Path, pybind11: str, host: str, version: str, work: Path
) -> str:
    """The ninja file: every object of the kernels once for each instruction set, the rest once."""
    csrc, python = ROOT / "csrc", sysconfig.get_path("include")
    extra = os.environ.get("CXXFLAGS", "") + (" -DSPARSEDROP_AMX" if "amx_bf16" in isas else "")
    lines = [
        "rule cxx",
        f"  command = {compiler} {FLAGS} $flags {extra} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} -shared {extra} $in $libs -o $out",
    ]

    def compiled(name: str, source: Path, flags: str) -> str:
        lines.extend([f"build {name}.o: cxx {escape(source)}", f"  flags = {flags}"])
        return f"{name}.o"

    stable = f"-DTORCH_TARGET_VERSION=0x020b000000000000 -I{quote(work)} -isystem {quote(torch / 'include')}"
    objects = [
        compiled(f"kernels_{isa}", csrc / "cpu" / "kernels.cpp", f"-DSPARSEDROP_ISA={isa} {flags}")
        for isa, flags in isas.items()
    ]
    objects += [compiled(name, csrc / "cpu" / f"{name}.cpp", stable) for name in KERNELS]
    start = [compiled(name, csrc / "host" / f"{name}.cpp", "") for name in START]
    objects += [compiled("calls", csrc / "host" / "calls.cpp", stable), *start]
    # libtorch_cpu must be named as needed even where the linker sees no use of it.
    # A compiler that links libstdc++ statically must not export it either: torch's own would replace half of it, and
    # the first exception would crash.
    libs = f"-L{quote(torch / 'lib')} -Wl,--no-as-needed -ltorch_cpu -Wl,--exclude-libs,ALL -ldl"
    lines += [f"build _kernels.so: link {' '.join(objects)}", f"  libs = {libs}"]

    binding = f"-I{quote(work)} -isystem {quote(pybind11)} -isystem {quote(python)} -DSPARSEDROP_VERSION={version}"
    objects = [compiled(name, csrc / "host" / f"{name}.cpp", binding) for name in HOST]
    lines += [f"build {host}: link {' '.join([*objects, *start])} isa.o", "  libs = -ldl"]
    return "\n".join([*lines, ""])


def escape(path: Path) -> str:
    return re.sub(r"([ :$])", r"$\1", str(path))


def quote(path: Path | str) -> str:
    return shlex.quote(str(path)).replace("$", "$$")


def plan_layout_header() -> str:
    spec = importlib.util.spec_from_file_location("plan_layout", ROOT / PACKAGE / "ops" / "layout.py")
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    return layout.c_header()


def find_compiler() -> str:
    asked = os.environ.get("CXX")
    candidates = [asked] if asked else ["c++", "g++", "clang++"]
    for command in candidates:
        if shutil.which(shlex.split(command)[0]):
            return command
    raise Unavailable(f"no C++ compiler: {' or '.join(candidates)} not found")


def find_torch() -> Path:
    """The torch package, which an isolated build cannot import but whose place is known."""
    found = importlib.util.find_spec("torch")
    folders = [Path(place) for place in found.submodule_search_locations or ()] if found else []
    folders += [Path(sysconfig.get_path(key), "torch") for key in ("purelib", "platlib")]
    for folder in folders:
        if not (folder / "include/torch/csrc/stable/library.h").exists():
            continue
        version = torch_version(folder)
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_TORCH:
            raise Unavailable(f"torch {version} is older than {'.'.join(map(str, OLDEST_TORCH))}")
        return folder
    raise Unavailable("torch is not installed in this environment; install it first, then this package again")


def torch_version(folder: Path) -> str:
    text = (folder / "version.py").read_text()
    return re.search(r"__version__ = '([^']+)'", text).group(1)


def find_ninja() -> str:
    try:
        import ninja

        found = shutil.which("ninja", path=ninja.BIN_DIR)
    except ImportError:
        found = None
    found = found or shutil.which("ninja")
    if not found:
        raise Unavailable("ninja is not installed")
    return found


def find_pybind11() -> str:
    try:
        import pybind11
    except ImportError:
        raise Unavailable("pybind11 is not installed") from None
    return pybind11.get_include()

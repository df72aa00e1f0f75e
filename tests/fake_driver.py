"""A CUDA driver that only writes down what it is asked, and what launches need of torch's CUDA part."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

DRIVER = r"""
#include <cstddef>
#include <cstdio>
#include <cstdlib>
static __thread void* context;
static char contexts[200];
extern "C" {
int aoti_torch_get_current_cuda_stream(int, void** stream) { *stream = reinterpret_cast<void*>(7); return 0; }
int cuGetErrorString(int, const char** text) { *text = "fake failure"; return 0; }
int cuDeviceGet(int* handle, int device) { *handle = device + 100; return 0; }
int cuCtxGetCurrent(void** current) { *current = context; return 0; }
int cuCtxSetCurrent(void* wanted) {
  std::printf("context of %d\n", static_cast<int>(static_cast<char*>(wanted) - contexts));
  context = wanted;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** made, int handle) { *made = contexts + handle; return 0; }
int cuModuleLoadData(void** module, const void* code) {
  if (*static_cast<const char*>(code) == '!') return 42;
  *module = contexts;
  return 0;
}
int cuModuleGetFunction(void** function, void*, const char* name) {
  std::printf("kernel %s\n", name);
  *function = contexts;
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
// A kernel of one address, an int and two addresses.
int cuFuncGetParamInfo(void* function, size_t index, size_t*, size_t* bytes) {
  static const size_t sizes[] = {8, 4, 8, 8};
  if (function != contexts || index >= 4) return 1;
  *bytes = sizes[index];
  return 0;
}
int cuDriverGetVersion(int* version) {
  const char* given = std::getenv("FAKE_DRIVER");
  *version = given ? std::atoi(given) : 13000;
  return 0;
}
struct Attribute {
  int id, padding, value[16];
};
struct Config {
  unsigned blocks, y, z, threads, more[2], shared;
  void* stream;
  const Attribute* attributes;
  unsigned count;
};
int cuLaunchKernelEx(const Config* config, void*, void** parameters, void**) {
  const auto [blocks, y, z, threads, more, shared, stream, attributes, count] = *config;
  for (unsigned i = 0; i < count; ++i)
    std::printf("launch attribute %d = %d\n", attributes[i].id, attributes[i].value[0]);
  if (y > 1) {
    const int number = *static_cast<int*>(parameters[1]);
    std::printf("%u x %u x %u blocks of %u, %u bytes, stream %p: %llu %d\n", blocks, y, z, threads, shared, stream,
                *static_cast<unsigned long long*>(parameters[0]), number);
    std::fflush(stdout);
    return context ? 0 : 201;
  }
  const unsigned long long* maps = static_cast<unsigned long long*>(parameters[0]);
  std::printf("%u blocks of %u, %u bytes, stream %p: %llu %llu %llu %llu\n", blocks, threads, shared, stream, maps[0],
              maps[16], maps[32], maps[48]);
  std::fflush(stdout);
  return context ? 0 : 201;
}
}
"""


def asker(folder: Path) -> Callable[[str], list[str]]:
    """Runs a script with that driver; what the driver and the script print."""
    (folder / "driver.cpp").write_text(DRIVER)
    for name in ("libcuda.so.1", "libtorch_cuda.so"):
        command = [
            "g++",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{name}",
            str(folder / "driver.cpp"),
            "-o",
            str(folder / name),
        ]
        subprocess.run(command, check=True)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": paths}

    def run(script: str) -> list[str]:
        done = subprocess.run([sys.executable, "-u", "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run

// A CUDA driver whose GPU is the emulator. A module's code is the path of an emulated kernel.
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace {

using Kernel = int (*)(const void*, const void*, unsigned, unsigned, unsigned);
using Map = std::uint64_t;
char context;

}  // namespace

extern "C" {
int cuGetErrorString(int code, const char** text) {
  *text = code == 719 ? "the emulated kernel hangs" : "refused";
  return 0;
}
int cuDeviceGet(int* handle, int device) { return *handle = device; }
int cuCtxGetCurrent(void** current) {
  *current = &context;
  return 0;
}
int cuCtxSetCurrent(void*) { return 0; }
int cuDevicePrimaryCtxRetain(void** made, int) {
  *made = &context;
  return 0;
}
int cuModuleLoadData(void** module, const void* code) {
  *module = dlopen(static_cast<const char*>(code), RTLD_NOW | RTLD_LOCAL);
  return *module ? 0 : 200;
}
int cuModuleGetFunction(void** function, void* module, const char*) {
  *function = dlsym(module, "launch");
  return *function ? 0 : 500;
}
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuTensorMapEncodeTiled(Map* map, int, unsigned rank, void* address, const std::uint64_t* sizes,
                           const std::uint64_t* strides, const unsigned* box, const unsigned*, int, int, int, int) {
  const bool right = rank == 2 && strides[0] % 16 == 0 && box[0] * 2 <= 128 && box[1] <= 256;
  map[0] = reinterpret_cast<Map>(address), map[1] = sizes[0], map[2] = sizes[1], map[3] = strides[0];
  map[4] = box[0], map[5] = box[1];
  return right ? 0 : 1;
}
int cuTensorMapReplaceAddress(Map* map, void* address) {
  map[0] = reinterpret_cast<Map>(address);
  return map[0] % 16 == 0 ? 0 : 1;
}
int cuDriverGetVersion(int* version) { return (*version = 13000) < 0; }
int cuLaunchKernelEx(const unsigned* config, void* kernel, void** parameters, void**) {
  static unsigned seed = static_cast<unsigned>(std::atoi(std::getenv("EMULATOR_SEED")));
  const unsigned blocks = config[0], threads = config[3];
  return reinterpret_cast<Kernel>(kernel)(parameters[0], parameters[1], blocks, threads, seed += 1000);
}
}

#include "driver.h"

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <stdexcept>
#include <string>

namespace sparsedrop {
namespace {

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) throw std::runtime_error(std::string("libcuda.so.1 has no ") + name);
}

void* primary_context(int device) {
  static std::array<std::atomic<void*>, 64> found{};
  std::atomic<void*>& known = found.at(device);
  void* context = known.load(std::memory_order_relaxed);
  if (context) return context;
  int handle = 0;
  driver().check(driver().device(&handle, device), "asking for the device");
  driver().check(driver().primary_context(&context, handle), "asking for the device's context");
  known.store(context, std::memory_order_relaxed);
  return context;
}

}  // namespace

void Driver::check(int code, const char* what) const {
  if (code == 0) return;
  const char* text = nullptr;
  error_string(code, &text);
  throw std::runtime_error(std::string(what) + ": " + (text ? text : "unknown error") + " (" + std::to_string(code) + ")");
}

const Driver& driver() {
  static const Driver found = [] {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) throw std::runtime_error(std::string("no CUDA driver: ") + dlerror());
    Driver d;
    find(library, "cuDriverGetVersion", d.version);
    find(library, "cuGetErrorString", d.error_string);
    find(library, "cuDeviceGet", d.device);
    find(library, "cuCtxGetCurrent", d.context);
    find(library, "cuCtxSetCurrent", d.set_context);
    find(library, "cuDevicePrimaryCtxRetain", d.primary_context);
    find(library, "cuModuleLoadData", d.module_load);
    find(library, "cuModuleGetFunction", d.module_function);
    find(library, "cuFuncSetAttribute", d.function_attribute);
    find(library, "cuTensorMapEncodeTiled", d.encode);
    find(library, "cuTensorMapReplaceAddress", d.replace_address);
    find(library, "cuLaunchKernelEx", d.launch);
    d.parameter = reinterpret_cast<decltype(d.parameter)>(dlsym(library, "cuFuncGetParamInfo"));
    return d;
  }();
  return found;
}

OnDevice::OnDevice(int device) : wanted_(primary_context(device)) {
  driver().check(driver().context(&before_), "asking for the context");
  if (before_ != wanted_) driver().check(driver().set_context(wanted_), "setting the context");
}

OnDevice::~OnDevice() {
  if (before_ && before_ != wanted_) driver().set_context(before_);
}

}  // namespace sparsedrop

// The CUDA driver that is found at run time: nothing of CUDA is needed to build this.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsedrop {

// As the driver's interface fixes it.
struct alignas(64) TensorMap {
  std::uint64_t words[16];
};

// As the driver's interface fixes them.
struct LaunchAttribute {
  int id;
  alignas(8) int value;
  unsigned char rest[60];
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};

static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56);

struct Driver {
  int (*version)(int*);
  int (*error_string)(int, const char**);
  int (*device)(int*, int);
  int (*context)(void**);
  int (*set_context)(void*);
  int (*primary_context)(void**, int);
  int (*module_load)(void**, const void*);
  int (*module_function)(void**, void*, const char*);
  int (*function_attribute)(void*, int, int);
  int (*encode)(TensorMap*, int, std::uint32_t, void*, const std::uint64_t*, const std::uint64_t*, const std::uint32_t*,
                const std::uint32_t*, int, int, int, int);
  int (*replace_address)(TensorMap*, void*);
  int (*launch)(const LaunchConfig*, void*, void**, void**);
  int (*parameter)(void*, std::size_t, std::size_t*, std::size_t*);  // null in drivers before CUDA 12.4

  void check(int code, const char* what) const;
};

const Driver& driver();

// While it lives, the thread works in the context that PyTorch uses on a device. A thread that had none keeps it.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;

 private:
  void *before_ = nullptr, *wanted_;
};

}  // namespace sparsedrop

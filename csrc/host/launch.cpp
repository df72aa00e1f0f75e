#include "launch.h"

#include <atomic>
#include <cstring>
#include <random>
#include <stdexcept>

namespace sparsedrop {
namespace {

enum { kProgrammaticStreamSerialization = 6 };  // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION

// Starts anywhere, so that what other processes or earlier runs left in memory is no ticket of ours.
unsigned long long next_ticket() {
  static std::atomic<unsigned long long> next{[] {
    std::random_device random;
    return (static_cast<unsigned long long>(random()) << 32 | random()) | 1;
  }()};
  return next.fetch_add(2, std::memory_order_relaxed);
}

}  // namespace

std::size_t Launch::add(const void* value, std::size_t bytes) {
  const std::size_t alignment = bytes % alignof(TensorMap) ? 8 : alignof(TensorMap);
  const std::size_t place = (bytes_ + alignment - 1) / alignment * alignment;
  if (parameter_count_ == kMostParameters || place + bytes > kMostBytes)
    throw std::runtime_error("a kernel with more parameters than a launch holds");
  std::memcpy(data_ + place, value, bytes);
  parameters_[parameter_count_++] = {static_cast<std::uint16_t>(place), static_cast<std::uint16_t>(bytes)};
  bytes_ = static_cast<unsigned>(place + bytes);
  return place;
}

void Launch::fill(Fill what, std::size_t place, unsigned slot, std::size_t beyond) {
  if (filled_count_ == kMostFilled) throw std::runtime_error("a kernel with more addresses than a launch holds");
  filled_[filled_count_++] = {what, static_cast<std::uint8_t>(slot), static_cast<std::uint16_t>(place),
                              static_cast<std::uint32_t>(beyond)};
}

void Launch::overlap() {
  // Older drivers can't capture it in a graph.
  int version = 0;
  driver().check(driver().version(&version), "asking for the driver's version");
  overlaps_ = version >= 12030;
}

bool Launch::fits_kernel() const {
  if (!driver().parameter) return false;
  const OnDevice here(device_);
  void* kernel = reinterpret_cast<void*>(kernel_);
  std::size_t offset, bytes;
  for (unsigned i = 0; i < parameter_count_; ++i)
    if (driver().parameter(kernel, i, &offset, &bytes) != 0 || bytes != parameters_[i].bytes) return false;
  return driver().parameter(kernel, parameter_count_, &offset, &bytes) != 0;
}

void Launch::start(void* stream, const std::uintptr_t* addresses) const {
  const OnDevice here(device_);
  alignas(alignof(TensorMap)) unsigned char data[kMostBytes];
  std::memcpy(data, data_, bytes_);
  for (unsigned i = 0; i < filled_count_; ++i) {
    const Filled& filled = filled_[i];
    unsigned char* place = data + filled.place;
    if (filled.what == Fill::map) {
      void* address = reinterpret_cast<void*>(addresses[filled.slot]);
      driver().check(driver().replace_address(reinterpret_cast<TensorMap*>(place), address), "describing a matrix");
      continue;
    }
    if (filled.what == Fill::number) {
      const auto bits = static_cast<std::uint32_t>(addresses[filled.slot]);
      std::memcpy(place, &bits, sizeof bits);
      continue;
    }
    const std::uint64_t value = filled.what == Fill::ticket ? next_ticket() : addresses[filled.slot] + filled.beyond;
    std::memcpy(place, &value, sizeof value);
  }
  void* parameters[kMostParameters];
  for (unsigned i = 0; i < parameter_count_; ++i) parameters[i] = data + parameters_[i].place;
  LaunchAttribute overlap{kProgrammaticStreamSerialization, 1, {}};
  const LaunchConfig config{{grid_[0], grid_[1], grid_[2]}, {threads_, 1, 1}, shared_bytes_, stream, &overlap, overlaps_};
  driver().check(driver().launch(&config, reinterpret_cast<void*>(kernel_), parameters, nullptr), "starting a kernel");
}

}  // namespace sparsedrop

// A kernel's start as plain data, complete but for the addresses of its tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "driver.h"

namespace sparsedrop {

class Launch {
 public:
  Launch() = default;
  Launch(int device, std::uintptr_t kernel, const unsigned (&grid)[3], unsigned threads, unsigned shared_bytes)
      : device_(device), kernel_(kernel), grid_{grid[0], grid[1], grid[2]}, threads_(threads), shared_bytes_(shared_bytes) {}

  // The next parameter; the result is its place.
  std::size_t add(const void* value, std::size_t bytes);
  template <class Value>
  std::size_t add(const Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    return add(&value, sizeof value);
  }
  // What is written there at every start: an address among those given and some bytes more, a tensor map's address, a
  // float32 that is given in the place of an address, or a number that no other start gets.
  void address_at(std::size_t place, unsigned slot, std::size_t beyond = 0) { fill(Fill::address, place, slot, beyond); }
  void map_at(std::size_t place, unsigned slot) { fill(Fill::map, place, slot, 0); }
  void float_at(std::size_t place, unsigned slot) { fill(Fill::number, place, slot, 0); }
  void ticket_at(std::size_t place) { fill(Fill::ticket, place, 0, 0); }

  // The kernel may begin while the one before it in the stream ends: it waits itself before it reads or writes memory.
  void overlap();

  // Whether the kernel takes parameters of just these sizes; false also where the driver cannot tell.
  bool fits_kernel() const;

  void start(void* stream, const std::uintptr_t* addresses) const;

 private:
  enum class Fill : std::uint8_t { address, map, number, ticket };
  struct Filled {
    Fill what;
    std::uint8_t slot;
    std::uint16_t place;
    std::uint32_t beyond;
  };
  struct Parameter {
    std::uint16_t place, bytes;
  };
  static constexpr std::size_t kMostBytes = 1024, kMostParameters = 64, kMostFilled = 16;

  void fill(Fill what, std::size_t place, unsigned slot, std::size_t beyond);

  int device_ = 0;
  bool overlaps_ = false;
  std::uintptr_t kernel_ = 0;
  unsigned grid_[3] = {}, threads_ = 0, shared_bytes_ = 0, bytes_ = 0, parameter_count_ = 0, filled_count_ = 0;
  Parameter parameters_[kMostParameters] = {};
  Filled filled_[kMostFilled] = {};
  alignas(alignof(TensorMap)) unsigned char data_[kMostBytes] = {};
};

static_assert(std::is_trivially_copyable_v<Launch>, "launches travel as bytes");

}  // namespace sparsedrop

// Memory of one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace sparsedrop {

constexpr int64_t line_bytes = 64;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// A buffer of one thread, kept between calls: fresh pages for each call would cost as much as packing.
class Scratch {
 public:
  char* reserve(int64_t bytes) {
    bytes = round_up(std::max(bytes, line_bytes), line_bytes);
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = static_cast<char*>(std::aligned_alloc(line_bytes, bytes));
      if (!data_) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_;
  }
  ~Scratch() { std::free(data_); }

 private:
  char* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace sparsedrop

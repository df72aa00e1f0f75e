// The one driver behind both ops:
//
//   out[r, c] = scale_out * (scale_in * sum over s of a[r, s] * b[c, s] + bias[c])
//
// a, out and b are divided into blocks that masks keep or drop. The masked product drops blocks of a
// (r, s) and of out (r, c), the masked reduction blocks of a (r, s) and of b (c, s).
#pragma once

#include "kernels.h"

namespace sparsedrop {

// A bitmap of a plan: one row of 32-bit words for each block of its first dimension.
struct Bits {
  const int32_t* words = nullptr;  // null keeps all
  int64_t row_words = 0;

  bool keeps(int64_t row, int64_t col) const {
    return !words || (words[row * row_words + col / 32] >> (col % 32) & 1);
  }
};

struct Dimension {
  int64_t size, block;  // block ≥ 1; the last one may be short
  int64_t blocks() const { return (size + block - 1) / block; }
};

struct Matrix {
  const void* data;
  int64_t row_stride, step_stride;  // in elements
};

struct MaskedMatmul {
  Element element;
  Dimension rows, columns, steps;
  Matrix a, b;
  Bits a_keep, out_keep, b_keep;
  void* out;
  int64_t out_row_stride, out_column_stride;  // one of them is 1
  const void* bias;
  int64_t bias_stride;
  float scale_in, scale_out;
};

void masked_matmul(const MaskedMatmul&);

}  // namespace sparsedrop

// The one driver behind both ops:
//
//   out[r, c] = scale_out * (scale_in * sum over s of rows[r, s] * columns[c, s] + bias[r, c])
//
// Rows, columns and out are divided into blocks that masks keep or drop. The masked product drops blocks of
// one factor and of out, the masked reduction blocks of both factors.
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

// One factor, and what belongs to its direction of the result. Strides are in elements.
struct Side : Dimension {
  const void* data;
  int64_t stride, step_stride;
  Bits keep;      // blocks of this side × blocks of steps
  Bits out_keep;  // blocks of this side × blocks of the other side
  int64_t out_stride, bias_stride;  // as the kernels' Result has them
};

struct MaskedMatmul {
  Element element;
  Side rows, columns;  // may be exchanged
  Dimension steps;
  void* out;
  const void* bias;
  float scale_in, scale_out;
};

void masked_matmul(MaskedMatmul);

// out[c] = scale * sum over kept s of columns[c, s], for columns of stride 1.
void masked_sum(Element, const Side& columns, const Dimension& steps, void* out, float scale);

}  // namespace sparsedrop

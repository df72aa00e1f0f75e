// The warp that writes the zeros.
#pragma once

#include "shared.cuh"

namespace sparsedrop {

// +0 into what the mask over C drops.
__device__ void write_zeros(Shared& shared, const Arguments& args, const Maps& maps) {
  const int lane = threadIdx.x % 32, length = args.out.length, tall = args.rows_per_block * kTileA;
  const int lines = divide_up(args.rows, args.rows_per_block);
  for (int i = blockIdx.x * 32 + lane; i < lines * length; i += gridDim.x * 32) {
    const int line = shared.schedule.rows[row_of(args, i / length * args.rows_per_block)].line, at = i % length;
    if (at < args.out.plan[args.out.count + line]) continue;
    const int column = args.out.plan[args.out.index + line * length + at] * args.out.block;
    for (int a = line * tall; a < min((line + 1) * tall, args.size_a); a += kZeroRows)
      for (int b = column; b < min(column + args.out.block, args.size_b); b += kSlab)
        store_box(maps.zeros, b, a, shared.zeros);
  }
  commit_stores();
  wait_stores_read();
}

}  // namespace sparsedrop

// From sums to memory: a finished tile waits in registers, as 16-bit elements, and leaves a slab at a time while the tensor
// cores are busy with the next tile.
#pragma once

#include "registers.cuh"
#include "shared.cuh"

namespace sparsedrop {

// A slab, 64 lines of A by 64 of B, into shared memory as the copy engine reads it: swizzled rows of 128 bytes.
template <bool Transposed>
__device__ __forceinline__ void stage_slab(char* to, const u32* pairs) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, matrix = lane / 8, row_in_matrix = lane % 8;
  const u32 base = shared_address(to);
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    // Matrices 0 and 2 hold lines 0 to 7 of the warp's 16, matrices 1 and 3 the others; 2 and 3 the next eight of B.
    const int along_a = warp * 2 + matrix % 2, along_b = j + matrix / 2;
    const int row = (Transposed ? along_b : along_a) * 8 + row_in_matrix, chunk = Transposed ? along_a : along_b;
    const u32* d = pairs + j * 2;
    store_matrices<Transposed>(base + row * 128 + ((chunk ^ (row % 8)) << 4), d[0], d[1], d[2], d[3]);
  }
}

// The four warps that hold half of a tile's lines of A.
__device__ __forceinline__ int group() { return threadIdx.x / 128 - 1; }

// A group's share of the tile before.
struct Outgoing {
  u32 pairs[64];
  float scale;

  __device__ __forceinline__ explicit Outgoing(const Arguments& args)
      : scale((args.scale_1 ? *args.scale_1 : 1.f) * (args.scale_2 ? *args.scale_2 : 1.f)) {}

  // Scales the sums and adds the bias. The tensor cores wait for this.
  template <int Sums>
  __device__ __forceinline__ void take(const Tile& tile, const float (&c)[Sums], bool has_bias) {
    if (has_bias) {
#pragma unroll
      for (int j = 0; j < Sums / 4; ++j) {
        const float2 add = *reinterpret_cast<const float2*>(tile.bias + 8 * j + threadIdx.x % 4 * 2);
        pairs[2 * j] = pack(c[4 * j] * scale + add.x, c[4 * j + 1] * scale + add.y);
        pairs[2 * j + 1] = pack(c[4 * j + 2] * scale + add.x, c[4 * j + 3] * scale + add.y);
      }
    } else {
#pragma unroll
      for (int j = 0; j < Sums / 2; ++j) pairs[j] = pack(c[2 * j] * scale, c[2 * j + 1] * scale);
    }
  }

  // A slab, under the multiplications of the tile after it. The staging is free when the slab before has been read from there.
  template <int Slab>
  __device__ __forceinline__ void send(Shared& shared, const Maps& maps, const Ring<kTilesAhead>& now) const {
    if (now.turn == 0) return;
    const Tile& tile = shared.tiles[now.slot_before()];
    if (Slab < tile.brief.stores()) {
      char* const staging = shared.staging[group()];
      wait_stores_read();
      meet(2 + group(), 128);
      stage_slab<kTransposed>(staging, pairs + 16 * Slab);
      publish_shared();
      meet(2 + group(), 128);
      if (threadIdx.x / 32 % 4 == 0 && elect_one()) store(maps, tile, Slab, staging);
    }
    if constexpr (Slab == 3) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) arrive_at(shared.tile_empty[now.slot_before()], 0);
    }
  }

  // All at once, when nothing is left to multiply: by way of the stages, where each group has lines of A that nobody else reads.
  __device__ __forceinline__ void flush(Shared& shared, const Maps& maps, const Ring<kTilesAhead>& now) const {
    static_assert(kStages >= 4, "a stage for each slab");
    if (now.turn == 0) return;
    const Tile& tile = shared.tiles[now.slot_before()];
    const int mine = threadIdx.x / 32 % 4, stores = tile.brief.stores();
    const auto staging = [&](int slab) { return shared.stages[slab] + group() * (kABytes / 2); };
    meet(2 + group(), 128);
#pragma unroll
    for (int slab = 0; slab < 4; ++slab)
      if (slab < stores) stage_slab<kTransposed>(staging(slab), pairs + 16 * slab);
    publish_shared();
    meet(2 + group(), 128);
    if (mine < stores && elect_one()) store(maps, tile, mine, staging(mine));
    wait_stores_read();
  }

 private:
  __device__ __forceinline__ static void store(const Maps& maps, const Tile& tile, int slab, const char* from) {
    const int line = tile.line + group() * 64, column = tile.column[slab];
    store_box(maps.c, kTransposed ? line : column, kTransposed ? column : line, from);
    commit_stores();
  }
};

}  // namespace sparsedrop

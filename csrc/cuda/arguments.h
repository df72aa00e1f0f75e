// What a launch tells the kernel: written by the host, read by the device.
#pragma once

namespace sparsedrop {

constexpr int kTileA = 128;       // lines of A in a tile
constexpr int kTileB = 256;       // lines of B in a tile: two halves of 128, or four slabs of 64
constexpr int kSlab = 64;         // what one store writes: 64 lines of A by 64 of B
constexpr int kStep = 64;         // terms of the sum in a step
constexpr int kMostRows = 1024;    // of the schedule, in one launch
constexpr int kMostLines = 6144;  // of blocks of the masks
constexpr int kLongest = 1 << 20;  // elements of B's lines or of the sum, in whole blocks: steps are 16-bit, costs 32-bit
constexpr int kThreads = 384;      // four warps that serve and eight that multiply
constexpr int kZeroRows = 8;       // what one store of zeros writes: that many lines of A by a slab
constexpr int kTogether = 22;      // rows of tiles side by side, at most, and
constexpr int kPanel = 24;         // slabs of them then; where there are fewer rows, more, up to
constexpr int kWidestPanel = 64;
constexpr int kMostTiles = kMostRows * (kWidestPanel / 4);

// A mask's lists, one per line of blocks: how many are kept, and which, the dropped ones behind them.
struct Lists {
  const int* plan;  // null where there is no mask
  int count;        // where the counts lie in the plan
  int index;        // where the lists lie
  int order;        // where the lines lie by their counts, longest first
  int length;       // blocks in a line
  int block;        // elements of a block, along the line
};

// C[a, b] = scale_2 · (scale_1 · Σ_t A[a, t] · B[b, t] + bias[b])
struct Arguments {
  Lists walk;  // masks A over (a, t): which terms there are
  Lists out;   // masks C over (a, b): which blocks there are
  const float* scale_1;
  const float* scale_2;
  const void* bias;
  float* partials;  // kTileA · kTileB floats for each thread block
  unsigned long long* flags;  // for each thread block one and for all two, of any value but the ticket
  unsigned long long ticket;  // says that a partial sum is there; no two launches have the same
  int size_a, size_b, terms;
  int first_row;  // of tiles; a launch serves `rows` from there
  int rows;
  int lines;  // of blocks of the masks, those of other launches too
  int together;  // rows of tiles side by side, and
  int panel;     // slabs of them: what runs at a time is nearly a square, to share A and B
  int panels;
  int sections;  // of the schedule: the panels and, where there can be any, the half tiles
  int rows_per_block;  // of tiles, in a block of the masks
};

}  // namespace sparsedrop

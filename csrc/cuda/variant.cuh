// Which kernel this is among those compiled from these sources.
#pragma once

#include "arguments.h"

namespace sparsedrop {

constexpr bool kALinesFirst = SPARSEDROP_A_LINES_FIRST;
constexpr bool kBLinesFirst = SPARSEDROP_B_LINES_FIRST;
constexpr bool kTransposed = SPARSEDROP_TRANSPOSED;  // C lies in memory as (b, a)
constexpr int kPiece = SPARSEDROP_PIECE;             // lines of B that one box brings, where the terms run along memory
constexpr int kPair = SPARSEDROP_PAIR;               // thread blocks side by side along B

constexpr int kTileSlabs = kPair * (kTileB / kSlab);  // what they multiply at a time

}  // namespace sparsedrop

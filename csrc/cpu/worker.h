// One thread's part of a masked product or reduction.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "masked_matmul.h"
#include "scratch.h"

namespace sparsedrop {

constexpr int64_t item_rows = 128;          // packed at a time
constexpr int64_t packed_row_bytes = 2048;  // of each of those rows: 256 KiB in all, which leaves L2 room for columns
constexpr int64_t tile_columns = 32;        // packed at a time: whole cache lines
constexpr int64_t finish_columns = 128;     // written at a time: short stretches of a row cost whole cache lines

// Columns whose steps lie side by side are multiplied where they are; others would cost a page and a
// cache line at each step, so a tile of them is copied once and used for all rows of the item.
inline bool reads_in_place(const Side& side, const Dimension& steps, const Kernels& kernels) {
  const bool whole_groups = steps.block % kernels.pair == 0 && steps.size % kernels.pair == 0;
  return kernels.in_place && side.step_stride == 1 && whole_groups;
}

// What one thread does at a time: some rows of one row block, and a range of columns.
struct Item {
  int64_t row_block, row, rows, column, columns, work;
};

// Some kept columns of one block; those from `first` on are written together, where `last`.
struct ColumnTile {
  int64_t block, first, column, columns;
  bool last;
};

// Adjacent kept steps of one block, with their place in the packed rows, in groups.
struct Piece {
  int64_t block, step, steps, position;
};

// Multiplies items: packs rows chunk by chunk, goes through the kept tiles of columns, and writes the result.
class Worker {
 public:
  Worker(const MaskedMatmul& matmul, const Kernels& kernels, int64_t max_columns)
      : m_(matmul), k_(kernels), group_limit_(packed_row_bytes / kernels.group_bytes) {
    const int64_t rows = round_up(std::min({m_.rows.block, m_.rows.size, item_rows}), k_.lanes);
    const int64_t groups = std::min(group_limit_, divide_up(m_.steps.size, k_.pair) + m_.steps.blocks());
    const int64_t waiting = groups < group_limit_ ? finish_columns : std::max(max_columns, finish_columns);
#if defined(__SANITIZE_ADDRESS__)
    Scratch* scratch = own_;
#else
    static thread_local Scratch scratch[3];
#endif
    packed_a_ = scratch[0].reserve(rows * groups * k_.group_bytes);
    packed_b_ = scratch[1].reserve(tile_width() * (groups + 2 * line_groups()) * k_.group_bytes);
    sums_ = scratch[2].reserve(rows * (waiting + k_.lanes) * k_.sum_bytes);
  }

  void run(const Item& item) {
    find_pieces(item.row_block);
    find_tiles(item);
    sums_row_ = round_up(item.rows, k_.lanes);
    for (size_t chunk = 0; chunk + 1 < chunks_.size(); ++chunk) {
      pieces_ = all_pieces_.data() + chunks_[chunk];
      piece_count_ = chunks_[chunk + 1] - chunks_[chunk];
      first_ = chunk == 0, last_ = chunk + 2 == chunks_.size();
      pack_rows(item);
      for (size_t i = 0; i < tiles_.size(); ++i) {
        start_prefetch(i + 1 < tiles_.size() ? &tiles_[i + 1] : nullptr);
        multiply(item, tiles_[i]);
        if (last_ && tiles_[i].last) finish(item, tiles_[i]);
      }
    }
  }

 private:
  int64_t tile_width() const { return round_up(tile_columns, k_.lanes); }
  int64_t line_groups() const { return line_bytes / k_.group_bytes; }

  // From one packed column to the next, in groups, and from one group to the next. Rows get a line more than they
  // need, lest all lie in few sets of a cache.
  int64_t column_stride() const {
    return k_.columns_by_row ? round_up(chunk_groups_, line_groups()) + line_groups() : 1;
  }
  int64_t group_stride() const { return k_.columns_by_row ? 1 : tile_width(); }

  const char* element(const Side& side, int64_t at, int64_t step) const {
    return static_cast<const char*>(side.data) +
           (at * side.stride + step * side.step_stride) * static_cast<int64_t>(k_.element_bytes);
  }

  char* out(int64_t row, int64_t column) const {
    return static_cast<char*>(m_.out) +
           (row * m_.rows.out_stride + column * m_.columns.out_stride) * static_cast<int64_t>(k_.element_bytes);
  }

  // The kept steps of a row block, cut into chunks of nearly equal size that fit the packed buffer.
  void find_pieces(int64_t row_block) {
    all_pieces_.clear();
    chunks_.assign(1, 0);
    int64_t total = 0;
    for (int64_t block = 0; block < m_.steps.blocks(); ++block)
      if (m_.rows.keep.keeps(row_block, block))
        total += divide_up(std::min(m_.steps.block, m_.steps.size - block * m_.steps.block), k_.pair);
    const int64_t chunk_groups = divide_up(total, std::max<int64_t>(divide_up(total, group_limit_), 1));
    int64_t position = 0;
    for (int64_t block = 0; block < m_.steps.blocks(); ++block) {
      if (!m_.rows.keep.keeps(row_block, block)) continue;
      const int64_t end = std::min((block + 1) * m_.steps.block, m_.steps.size);
      for (int64_t step = block * m_.steps.block; step < end;) {
        if (position == chunk_groups) {
          chunks_.push_back(all_pieces_.size());
          position = 0;
        }
        const int64_t steps = std::min(end - step, (chunk_groups - position) * k_.pair);
        all_pieces_.push_back({block, step, steps, position});
        position += divide_up(steps, k_.pair);
        step += steps;
      }
    }
    chunks_.push_back(all_pieces_.size());
    chunk_groups_ = chunk_groups;
  }

  int panel_vectors(int64_t rows_left) const { return rows_left > k_.lanes ? 2 : 1; }

  void pack_rows(const Item& item) {
    for (int64_t row = 0; row < item.rows;) {
      const int64_t width = panel_vectors(item.rows - row) * k_.lanes;
      for (int64_t i = 0; i < piece_count_; ++i) {
        const Piece& piece = pieces_[i];
        k_.pack(packed_a_ + (row * chunk_groups_ + piece.position * width) * k_.group_bytes, width,
                {element(m_.rows, item.row + row, piece.step), m_.rows.stride, m_.rows.step_stride,
                 std::min(width, item.rows - row), piece.steps});
      }
      row += width;
    }
  }

  // Tiles of the kept columns; dropped ones are filled with zeros.
  void find_tiles(const Item& item) {
    tiles_.clear();
    const int64_t end = item.column + item.columns;
    for (int64_t column = item.column; column < end;) {
      const int64_t block = column / m_.columns.block;
      const int64_t block_end = std::min((block + 1) * m_.columns.block, end);
      if (!m_.rows.out_keep.keeps(item.row_block, block)) {
        zero(item, column, block_end - column);
        column = block_end;
        continue;
      }
      while (column < block_end) {
        const int64_t first = column, last = std::min(first + finish_columns, block_end);
        for (; column < last; column += tile_columns)
          tiles_.push_back({block, first, column, std::min(tile_columns, last - column), column + tile_columns >= last});
        column = last;
      }
    }
  }

  void zero(const Item& item, int64_t column, int64_t columns) const {
    const bool across = m_.columns.out_stride == 1;
    const int64_t lines = across ? item.rows : columns, length = across ? columns : item.rows;
    for (int64_t i = 0; i < lines; ++i)
      std::memset(across ? out(item.row + i, column) : out(item.row, column + i), 0, length * k_.element_bytes);
  }

  // Where one chunk is all, the sums need not wait and their place is used again.
  char* sums(const Item& item, const ColumnTile& tile, int64_t column) const {
    return sums_ + (column - (first_ && last_ ? tile.first : item.column)) * sums_row_ * k_.sum_bytes;
  }

  void multiply(const Item& item, const ColumnTile& columns) {
    const bool in_place = reads_in_place(m_.columns, m_.steps, k_);
    find_runs(columns.block, in_place);
    Tile tile{};
    tile.broadcast = in_place ? element(m_.columns, columns.column, 0) : packed_b_;
    tile.row_bytes = in_place ? m_.columns.stride * static_cast<int64_t>(k_.element_bytes)
                              : column_stride() * k_.group_bytes;
    tile.group_bytes = in_place ? m_.columns.step_stride * k_.pair * static_cast<int64_t>(k_.element_bytes)
                                : group_stride() * k_.group_bytes;
    if (!in_place) pack_columns(columns);
    tile.runs = runs_.data();
    tile.run_count = runs_.size();
    tile.sums_row = sums_row_;
    tile.accumulate = !first_;
    char* sums = this->sums(item, columns, columns.column);

    const char* broadcast = static_cast<const char*>(tile.broadcast);
    const int64_t strips = divide_up(columns.columns, k_.max_rows);
    const int64_t share = divide_up(chunk_groups_ * k_.pair, strips * divide_up(item.rows, 2 * k_.lanes));
    for (int64_t i = 0; i < strips; ++i) {
      const int64_t from = columns.columns * i / strips, to = columns.columns * (i + 1) / strips;
      tile.broadcast = broadcast + from * tile.row_bytes;
      for (int64_t row = 0; row < item.rows;) {
        prefetch(share);
        const int vectors = panel_vectors(item.rows - row);
        tile.packed = packed_a_ + row * chunk_groups_ * k_.group_bytes;
        tile.sums = sums + (from * sums_row_ + row) * k_.sum_bytes;
        k_.multiply(tile, to - from, vectors);
        row += vectors * k_.lanes;
      }
    }
  }

  // Packing columns that lie far apart from step to step waits for memory, unless the next tile is fetched, a share at
  // a time, while this one is multiplied. Matrix instructions, which take columns by row, leave no time for that.
  void start_prefetch(const ColumnTile* next) {
    next_ = m_.columns.stride == 1 && !k_.columns_by_row ? next : nullptr;
    next_piece_ = next_step_ = 0;
  }

  void prefetch(int64_t steps) {
    if (!next_) return;
    const int64_t bytes = next_->columns * k_.element_bytes;
    const int64_t step_bytes = m_.columns.step_stride * static_cast<int64_t>(k_.element_bytes);
    while (steps > 0 && next_piece_ < piece_count_) {
      const Piece& piece = pieces_[next_piece_];
      const bool kept = m_.columns.keep.keeps(next_->block, piece.block);
      const int64_t count = kept ? std::min(steps, piece.steps - next_step_) : 0;
      const char* from = element(m_.columns, next_->column, piece.step + next_step_);
      for (int64_t i = 0; i < count; ++i, from += step_bytes)
        for (int64_t offset = 0; offset < bytes; offset += line_bytes) __builtin_prefetch(from + offset, 0, 2);
      steps -= count, next_step_ += count;
      if (!count || next_step_ == piece.steps) ++next_piece_, next_step_ = 0;
    }
  }

  void finish(const Item& item, const ColumnTile& tile) {
    const int64_t column = tile.first, columns = tile.column + tile.columns - column;
    const int64_t bias = item.row * m_.rows.bias_stride + column * m_.columns.bias_stride, size = k_.element_bytes;
    k_.finish({out(item.row, column), m_.rows.out_stride, m_.columns.out_stride, sums(item, tile, column), sums_row_,
               item.rows, columns, m_.bias ? static_cast<const char*>(m_.bias) + bias * size : nullptr,
               m_.rows.bias_stride, m_.columns.bias_stride, m_.scale_in, m_.scale_out});
  }

  void find_runs(int64_t column_block, bool in_place) {
    runs_.clear();
    int64_t position = 0;
    for (int64_t i = 0; i < piece_count_; ++i) {
      const Piece& piece = pieces_[i];
      if (!m_.columns.keep.keeps(column_block, piece.block)) continue;
      const int64_t groups = divide_up(piece.steps, k_.pair);
      const int64_t broadcast = in_place ? piece.step / k_.pair : position;
      position += groups;
      if (!runs_.empty() && runs_.back().packed + runs_.back().groups == piece.position &&
          runs_.back().broadcast + runs_.back().groups == broadcast)
        runs_.back().groups += groups;
      else
        runs_.push_back({piece.position, broadcast, groups});
    }
  }

  void pack_columns(const ColumnTile& tile) {
    int64_t position = 0;
    for (int64_t i = 0; i < piece_count_; ++i) {
      const Piece& piece = pieces_[i];
      if (!m_.columns.keep.keeps(tile.block, piece.block)) continue;
      k_.pack_columns(packed_b_ + position * group_stride() * k_.group_bytes,
                      k_.columns_by_row ? column_stride() : group_stride(),
                      {element(m_.columns, tile.column, piece.step), m_.columns.stride, m_.columns.step_stride,
                       tile.columns, piece.steps});
      position += divide_up(piece.steps, k_.pair);
    }
  }

  const MaskedMatmul& m_;
  const Kernels& k_;
  const int64_t group_limit_;
#if defined(__SANITIZE_ADDRESS__)
  Scratch own_[3];  // of exact size, so that the sanitizer sees their ends
#endif
  char *packed_a_, *packed_b_, *sums_;
  std::vector<Piece> all_pieces_;
  std::vector<int64_t> chunks_;  // where each begins in all_pieces_, and the end
  std::vector<ColumnTile> tiles_;
  std::vector<Run> runs_;
  const ColumnTile* next_ = nullptr;  // being fetched
  int64_t next_piece_ = 0, next_step_ = 0;
  const Piece* pieces_ = nullptr;
  int64_t piece_count_ = 0, chunk_groups_ = 0, sums_row_ = 0;
  bool first_ = false, last_ = false;
};

}  // namespace sparsedrop

#include "masked_matmul.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "threads.h"
#include "worker.h"

namespace sparsedrop {
namespace {

constexpr int64_t part_columns = 2048;  // bounds the sums that wait for the next chunk of a row: 1 MiB
constexpr int64_t items_per_thread = 8;

std::vector<Item> divide(const MaskedMatmul& m, int64_t lanes, int64_t threads) {
  const int64_t block_rows = std::min(m.rows.block, m.rows.size), row_parts = divide_up(block_rows, item_rows);
  const int64_t part_rows = round_up(divide_up(block_rows, row_parts), lanes);
  const int64_t row_items = m.rows.blocks() * row_parts;
  // Each part packs its rows again, which pays only where the part is wide.
  int64_t parts = threads == 1 ? 1 : std::min(divide_up(threads * items_per_thread, row_items), m.columns.size / 512);
  parts = std::max(parts, divide_up(m.columns.size, part_columns));
  const int64_t part = round_up(divide_up(m.columns.size, parts), tile_columns);
  std::vector<Item> items;
  for (int64_t block = 0; block < m.rows.blocks(); ++block) {
    int64_t steps = 0;
    for (int64_t i = 0; i < m.steps.blocks(); ++i) steps += m.rows.keep.keeps(block, i);
    const int64_t block_end = std::min((block + 1) * m.rows.block, m.rows.size);
    for (int64_t column = 0; column < m.columns.size; column += part) {
      const int64_t columns = std::min(part, m.columns.size - column);
      int64_t kept = 0;
      for (int64_t i = column / m.columns.block; i * m.columns.block < column + columns; ++i)
        if (m.rows.out_keep.keeps(block, i))
          kept += std::min((i + 1) * m.columns.block, column + columns) - std::max(i * m.columns.block, column);
      for (int64_t row = block * m.rows.block; row < block_end; row += part_rows) {
        const int64_t rows = std::min(part_rows, block_end - row);
        items.push_back({block, row, rows, column, columns, rows * steps * kept});
      }
    }
  }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.work > b.work; });
  return items;
}

// Rows are packed once for many columns, and columns again for each row block unless they can stay in place. So the
// side that can should be the columns; where neither can, the rows should be the side of which a mask drops something.
bool exchange_sides(const MaskedMatmul& m, const Kernels& kernels) {
  const bool rows = reads_in_place(m.rows, m.steps, kernels), columns = reads_in_place(m.columns, m.steps, kernels);
  if (rows != columns) return rows;
  return !rows && m.columns.keep.words && !m.rows.keep.words;
}

}  // namespace

void masked_matmul(MaskedMatmul m) {
  if (m.rows.size == 0 || m.columns.size == 0) return;
  const Kernels& kernels = kernels_for(m.element);
  if (exchange_sides(m, kernels)) std::swap(m.rows, m.columns);
  const int64_t max_threads = thread_count();
  const std::vector<Item> items = divide(m, kernels.lanes, max_threads);
  const int64_t threads = std::min<int64_t>(max_threads, items.size());
  int64_t widest = 0;
  for (const Item& item : items) widest = std::max(widest, item.columns);
  std::atomic<size_t> next{0};
  run_on_threads(threads, [&] {
    Worker worker(m, kernels, widest);
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items.size();) worker.run(items[i]);
  });
}

}  // namespace sparsedrop

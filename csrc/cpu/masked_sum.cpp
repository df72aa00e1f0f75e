#include <algorithm>
#include <atomic>

#include "masked_matmul.h"
#include "scratch.h"
#include "threads.h"

namespace sparsedrop {
namespace {

constexpr int64_t item_columns = 128;  // whose sums stay in registers

}  // namespace

void masked_sum(Element element, const Side& columns, const Dimension& steps, void* out, float scale) {
  const Kernels& kernels = kernels_for(element);
  const int64_t size = kernels.element_bytes, in_block = divide_up(std::min(columns.block, columns.size), item_columns);
  const int64_t items = columns.blocks() * in_block;
  std::atomic<int64_t> next{0};
  run_on_threads(std::min(thread_count(), items), [&] {
    alignas(line_bytes) char sums[item_columns * sizeof(double)];
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
      const int64_t block = item / in_block, first = block * columns.block + item % in_block * item_columns;
      const int64_t count = std::min({item_columns, (block + 1) * columns.block - first, columns.size - first});
      if (count <= 0) continue;
      std::fill_n(sums, sizeof sums, 0);
      for (int64_t i = 0; i < steps.blocks(); ++i) {
        if (!columns.keep.keeps(block, i)) continue;
        const int64_t step = i * steps.block;
        const char* from = static_cast<const char*>(columns.data) + (first + step * columns.step_stride) * size;
        kernels.add_steps(sums, {from, 1, columns.step_stride, count, std::min(steps.block, steps.size - step)});
      }
      kernels.finish({static_cast<char*>(out) + first * size, 1, 1, sums, 0, count, 1, nullptr, 0, 0, scale, 1});
    }
  });
}

}  // namespace sparsedrop

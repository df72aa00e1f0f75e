// The threads that torch uses for its own operators.
#pragma once

#include <torch/csrc/stable/ops.h>

namespace sparsedrop {

inline int64_t thread_count() { return torch::stable::get_num_threads(); }

// Runs work() on that many threads, or on fewer where torch grants no more.
template <class F>
void run_on_threads(int64_t threads, const F& work) {
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { work(); });
}

}  // namespace sparsedrop

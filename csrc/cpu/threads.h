// The threads that torch uses for its own operators.
#pragma once

#include <torch/csrc/stable/ops.h>

namespace sparsedrop {

inline int64_t thread_count() { return torch::stable::get_num_threads(); }

// Runs work(0) … work(threads - 1), each on a thread of its own where torch grants that many.
template <class F>
void run_on_threads(int64_t threads, const F& work) {
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) work(thread);
  });
}

}  // namespace sparsedrop

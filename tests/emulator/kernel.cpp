// The kernel's own sources with the emulated instructions, started as the driver starts kernels.
#include "masked_matmul.cu"

// A result other than 0 where a thread block hangs.
extern "C" int launch(const void* maps, const void* arguments, unsigned blocks, unsigned threads, unsigned seed) {
  machine::grid_size = {blocks};
  for (unsigned i = 0; i < blocks; ++i) {
    machine::block_index = {i};
    std::memset(memory, 0xFF, sizeof memory);  // no numbers
    const bool ended = machine::run_block(threads, seed + i, [&] {
      masked_matmul(*static_cast<const sparsedrop::Maps*>(maps), *static_cast<const sparsedrop::Arguments*>(arguments));
    });
    if (!ended) return 719;  // CUDA_ERROR_LAUNCH_FAILED
  }
  return 0;
}

// The kernel's own sources with the emulated instructions, started as the driver starts kernels.
#include <memory>

#include "masked_matmul.cu"

namespace {

// False where thread blocks wait for each other. They begin in order, and end as chance has it; one of them moves only when no
// other can.
bool run_grid(const sparsedrop::Maps& maps, const sparsedrop::Arguments& arguments, unsigned count, unsigned threads, unsigned seed) {
  machine::grid_size = {count};
  std::vector<std::unique_ptr<machine::Block>> all;
  std::vector<machine::Block*> running;
  std::vector<machine::Meeting> meetings(count);
  machine::failed = false;
  machine::Block chance;
  chance.random = seed * 2654435761u + 1;
  const unsigned late = chance.draw(count);
  unsigned begun = 0;
  while (begun < count || !running.empty()) {
    if (begun < count && (running.empty() || chance.draw(2) == 0)) {
      std::vector<machine::Block*> cluster;
      for (int i = 0; i < sparsedrop::kPair; ++i, ++begun) {
        all.push_back(std::make_unique<machine::Block>());
        cluster.push_back(all.back().get());
        cluster.back()->shared.assign(sizeof memory, static_cast<char>(0xFF));  // no numbers
        cluster.back()->cluster_meeting = &meetings[begun / sparsedrop::kPair];
        machine::begin(*cluster.back(), {begun}, threads, seed + begun, [&] { masked_matmul(maps, arguments); });
      }
      for (machine::Block* one : cluster) one->cluster = cluster;
      running.insert(running.end(), cluster.begin(), cluster.end());
    }
    // One by one from a random one on, until one moves.
    const unsigned size = static_cast<unsigned>(running.size()), first = chance.draw(size);
    bool moved = false;
    for (unsigned i = 0; i < 2 * size && !moved; ++i) {
      const unsigned at = (first + i) % size;
      machine::Block& block = *running[at];
      const bool last = i >= size;
      if ((block.index.x == late) != last || (last && begun < count)) continue;
      std::memcpy(memory, block.shared.data(), sizeof memory);
      moved = machine::run(block);
      std::memcpy(block.shared.data(), memory, sizeof memory);
      if (block.left == 0) {
        running.erase(running.begin() + at);
        moved = true;
      }
    }
    if (machine::failed) return false;
    if (!moved && begun == count) {
      std::fprintf(stderr, "%zu thread blocks wait for each other\n", running.size());
      return false;
    }
  }
  return true;
}

}  // namespace

// The kernel that makes a plan has not ended when this one begins: until then all blocks are dropped.
void delay_plan(const sparsedrop::Lists& lists, int lines) {
  if (!lists.plan) return;
  const auto begin = const_cast<int*>(lists.plan), end = begin + std::max({lists.count, lists.order, lists.index + lines * (lists.length - 1)}) + lines;
  const std::vector<int> made(begin, end);
  std::fill(begin, end, 0);
  machine::before = [=, earlier = machine::before] {
    if (earlier) earlier();
    std::copy(made.begin(), made.end(), begin);
  };
}

// Once, or again with the same memory to work in, as a captured graph's replays are. A result other than 0 where it hangs.
extern "C" int launch(const void* maps, const void* arguments, unsigned count, unsigned threads, unsigned seed) {
  const auto& all = *static_cast<const sparsedrop::Maps*>(maps);
  const char* replays = std::getenv("EMULATOR_REPLAYS");
  for (int i = 0; i <= (replays ? std::atoi(replays) : 0); ++i) {
    for (unsigned row = 0; i > 0 && row < all.c.outer; ++row)
      std::memset(reinterpret_cast<char*>(all.c.address + row * all.c.stride), 0xFF, 2 * all.c.inner);
    const auto& given = *static_cast<const sparsedrop::Arguments*>(arguments);
    delay_plan(given.walk, given.lines);
    delay_plan(given.out, given.lines);
    if (!run_grid(all, given, count, threads, seed + 1000 * i))
      return 719;  // CUDA_ERROR_LAUNCH_FAILED
  }
  return 0;
}

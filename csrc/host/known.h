// The kinds of calls that were seen before, and the launches that serve them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "launch.h"

namespace sparsedrop {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

// All that a launch and the checks of its arguments depend on.
using Key = std::vector<int64_t>;

struct Hash {
  std::size_t operator()(const Key& key) const {
    return std::hash<std::string_view>{}({reinterpret_cast<const char*>(key.data()), key.size() * sizeof(int64_t)});
  }
};

struct Known {
  std::vector<Launch> launches;
  int64_t workspace_bytes;
};

// A launch may be forgotten while a call in another thread is using it.
class Table {
 public:
  std::shared_ptr<const Known> find(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(key);
    return found == known_.end() ? nullptr : found->second;
  }

  // `packed`: the bytes to work in and the launches; nothing where Python serves such calls every time.
  void add(Key&& key, const Tensor& packed) {
    auto known = std::make_shared<Known>();
    const std::size_t count = packed.numel() / sizeof(Launch), head = sizeof known->workspace_bytes;
    if (count == 0) return;
    known->launches.resize(count);
    const auto bytes = static_cast<const char*>(packed.const_data_ptr());
    std::memcpy(&known->workspace_bytes, bytes, head);
    std::memcpy(static_cast<void*>(known->launches.data()), bytes + head, count * sizeof(Launch));
    const std::lock_guard lock(mutex_);
    if (known_.size() >= kMost) known_.clear();
    known_.insert_or_assign(std::move(key), std::move(known));
  }

  void forget() {
    const std::lock_guard lock(mutex_);
    known_.clear();
  }

 private:
  static constexpr std::size_t kMost = 4096;
  std::mutex mutex_;
  std::unordered_map<Key, std::shared_ptr<const Known>, Hash> known_;
};

inline Table& table() {
  static Table* const known = new Table;  // for threads that outlive static objects
  return *known;
}

inline int32_t asked(AOTITorchError (*what)(AtenTensorHandle, int32_t*), const Tensor& tensor) {
  int32_t answer;
  TORCH_ERROR_CODE_CHECK(what(tensor.get(), &answer));
  return answer;
}

inline int32_t dtype(const Tensor& tensor) { return asked(aoti_torch_get_dtype, tensor); }
inline int32_t device(const Tensor& tensor) { return asked(aoti_torch_get_device_index, tensor); }
inline int32_t device_type(const Tensor& tensor) { return asked(aoti_torch_get_device_type, tensor); }

inline void note(Key& key, const Tensor& tensor) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 16 == 0;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  key.insert(key.end(), {tensor.dim(), dtype(tensor), device(tensor), device_type(tensor), aligned});
  key.insert(key.end(), sizes.begin(), sizes.end());
  key.insert(key.end(), strides.begin(), strides.end());
}

inline void note(Key& key, const OptionalTensor& tensor) {
  if (tensor)
    note(key, *tensor);
  else
    key.push_back(-1);
}

inline void note(Key& key, const Sizes& sizes) {
  key.push_back(static_cast<int64_t>(sizes.size()));
  key.insert(key.end(), sizes.begin(), sizes.end());
}

}  // namespace sparsedrop

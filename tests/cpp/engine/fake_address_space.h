// Address space without memory, which knows what is mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>

#include "engine/address_space.h"

namespace streamer::testing {

// Not thread-safe. Nothing may be written to its addresses.
class FakeAddressSpace final : public AddressSpace {
 public:
  std::byte* map(std::uint64_t bytes, Pages /*pages*/, Place place) override {
    if (refuse_ > 0 && --refuse_ == 0) return nullptr;
    ++maps_;
    if (place == Place::kAligned) next_ = (next_ + 2 * kHugePage - 1) / kHugePage * kHugePage;
    auto* const data = reinterpret_cast<std::byte*>(next_);  // NOLINT: never dereferenced
    next_ += bytes;
    add(data, bytes);
    return data;
  }
  void release(std::byte* data, std::uint64_t bytes) override {
    if (on_release) on_release();
    remove(data, bytes);
  }
  void unmap(std::byte* data, std::uint64_t bytes) override { remove(data, bytes); }
  void discard(std::byte* /*data*/, std::uint64_t /*bytes*/) override {}
  bool move(std::byte* data, std::uint64_t bytes, std::byte* target) override {
    if (refuse_ > 0 && --refuse_ == 0) return false;
    remove(data, bytes);
    remove(target, bytes);
    add(target, bytes);
    return true;
  }

  std::function<void()> on_release = {};  // what happens while memory is on its way back

  // Bytes that are mapped.
  std::uint64_t mapped() const {
    std::uint64_t bytes = 0;
    for (const auto& [data, size] : pieces_) bytes += size;
    return bytes;
  }
  // Times that map() gave memory.
  int maps() const { return maps_; }
  // Whether something was unmapped that was not mapped.
  bool broken() const { return broken_; }
  // The call of that number from now on, of map() and move(), is refused; 0: none.
  void refuse(int call) { refuse_ = call; }

 private:
  void add(std::byte* data, std::uint64_t bytes) { pieces_.emplace(data, bytes); }
  void remove(std::byte* data, std::uint64_t bytes) {
    std::byte* const end = data + bytes;
    while (data < end) {
      auto it = pieces_.upper_bound(data);
      if (it == pieces_.begin()) break;
      --it;
      std::byte* const start = it->first;
      std::byte* const piece_end = start + it->second;
      if (piece_end <= data) break;
      pieces_.erase(it);
      if (start < data) add(start, static_cast<std::uint64_t>(data - start));
      if (piece_end > end) add(end, static_cast<std::uint64_t>(piece_end - end));
      data = piece_end;
    }
    broken_ = broken_ || data < end;
  }

  std::map<std::byte*, std::uint64_t> pieces_;
  std::uintptr_t next_ = std::uintptr_t{1} << 40;
  int refuse_ = 0;
  int maps_ = 0;
  bool broken_ = false;
};

}  // namespace streamer::testing

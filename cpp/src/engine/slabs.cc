#include "engine/slabs.h"

#include <iterator>
#include <new>
#include <utility>

namespace streamer {

Slabs::~Slabs() {
  if (getpid() != process_) return;
  for (ByAddress* slabs : {&used_, &spare_}) {
    for (const auto& [start, slab] : *slabs) space_.unmap(start, kSlab);
  }
}

std::byte* Slabs::allocate(std::uint64_t bytes) noexcept {
  const MutexLock lock(mutex_);
  if ((current_ == used_.end() || kSlab - current_->second.filled < bytes) && !next_slab_locked()) {
    return nullptr;
  }
  auto& [start, slab] = *current_;
  const std::uint64_t first = slab.filled / page_size();
  std::byte* const data = start + slab.filled;
  slab.filled += bytes;
  slab.live += 1;
  for (std::uint64_t page = first; page * page_size() < slab.filled; ++page) ++slab.pieces[page];
  return data;
}

// False: the system has no memory.
bool Slabs::next_slab_locked() {
  if (!spare_.empty()) {
    current_ = used_.insert(spare_.extract(std::prev(spare_.end()))).position;
    idle_ -= std::exchange(current_->second.idle, 0);
    return true;
  }
  try {
    ByAddress one;
    Slab slab;
    slab.pieces = std::make_unique<std::uint16_t[]>(kSlab / page_size() + 1);
    auto node = one.extract(one.emplace(nullptr, std::move(slab)).first);
    std::byte* const start = space_.map(kSlab, Pages::kSmall, Place::kContiguous);
    if (start == nullptr) return false;
    node.key() = start;
    current_ = used_.insert(std::move(node)).position;
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void Slabs::release(std::byte* data, std::uint64_t bytes) noexcept {
  if (getpid() != process_) {
    // The pages that belong to this piece alone.
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t begin = round_up(address, page_size());
    const std::uintptr_t end = round_down(address + bytes, page_size());
    if (begin < end) space_.discard(data + (begin - address), end - begin);
    return;
  }
  const MutexLock lock(mutex_);
  const auto found = std::prev(used_.upper_bound(data));
  auto& [start, slab] = *found;
  const auto offset = static_cast<std::uint64_t>(data - start);
  std::uint64_t first = 0;  // of the pages that this piece leaves without any
  std::uint64_t pages = 0;
  for (std::uint64_t at = offset / page_size(); at * page_size() < offset + bytes; ++at) {
    if (--slab.pieces[at] > 0) continue;
    if (pages++ == 0) first = at;
  }
  std::byte* const idle = start + first * page_size();
  if (--slab.live > 0) {
    if (closed_ && pages > 0) {
      space_.discard(idle, pages * page_size());
    } else {
      slab.idle += pages * page_size();
      idle_ += pages * page_size();
    }
  } else if (closed_) {
    if (found == current_) current_ = used_.end();
    space_.unmap(start, kSlab);
    used_.erase(found);
  } else if (found == current_) {
    slab.filled = 0;
    idle_ -= std::exchange(slab.idle, 0);
  } else {
    slab.filled = 0;
    slab.idle += pages * page_size();
    idle_ += pages * page_size();
    spare_.insert(used_.extract(found));
  }
  if (idle_ > kMostIdle) give_back_idle_locked();
}

void Slabs::give_back_idle_locked() {
  for (const auto& [start, slab] : spare_) space_.unmap(start, kSlab);
  spare_.clear();
  for (auto& [start, slab] : used_) {
    if (slab.idle == 0) continue;
    for (std::uint64_t at = 0; at * page_size() < slab.filled;) {
      const std::uint64_t first = at;
      while (at * page_size() < slab.filled && slab.pieces[at] == 0) ++at;
      if (at > first) space_.discard(start + first * page_size(), (at - first) * page_size());
      at += at == first ? 1 : 0;
    }
    slab.idle = 0;
  }
  idle_ = 0;
}

void Slabs::close() noexcept {
  if (getpid() != process_) return;
  const MutexLock lock(mutex_);
  closed_ = true;
  give_back_idle_locked();
  if (current_ == used_.end() || current_->second.live > 0) return;
  space_.unmap(current_->first, kSlab);
  used_.erase(current_);
  current_ = used_.end();
}

}  // namespace streamer

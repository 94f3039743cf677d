// The count of bytes that the engine holds, and their limit.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

namespace streamer {

// Thread-safe. An allocator asks first. Waiting for memory is the scheduler's job, because it
// depends on order.
class MemoryBudget {
 public:
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

  explicit MemoryBudget(std::uint64_t limit) : limit_(limit) {}

  std::uint64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(std::uint64_t limit) { limit_.store(limit, std::memory_order_relaxed); }
  std::uint64_t used() const {
    return used_.load(std::memory_order_relaxed) + readers_.load(std::memory_order_relaxed);
  }
  std::uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }

  // The bytes that try_take() would find now.
  std::uint64_t room() const {
    const std::uint64_t used = used_.load(std::memory_order_relaxed) + of_readers();
    return limit() - std::min(limit(), used);
  }

  // Takes `bytes` if they fit below the limit, beside the memory of readers.
  bool try_take(std::uint64_t bytes) {
    std::uint64_t used = used_.load(std::memory_order_relaxed);
    do {
      const std::uint64_t most = limit() - std::min(limit(), of_readers());
      if (bytes > most || used > most - bytes) return false;
    } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
    note_peak();
    return true;
  }
  // Takes `bytes` without regard to the limit: for memory that must exist (one slot).
  void take(std::uint64_t bytes) {
    used_.fetch_add(bytes, std::memory_order_relaxed);
    note_peak();
  }
  void give_back(std::uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }

  // Readers are made while memory is full, too. Memory that is set aside for them is theirs:
  // nothing else gets it.
  void set_aside(std::uint64_t bytes) { set_aside_.store(bytes, std::memory_order_relaxed); }
  std::uint64_t set_aside_bytes() const { return set_aside_.load(std::memory_order_relaxed); }
  void take_for_reader(std::uint64_t bytes) {
    readers_.fetch_add(bytes, std::memory_order_relaxed);
    note_peak();
  }
  void reader_ended(std::uint64_t bytes) { readers_.fetch_sub(bytes, std::memory_order_relaxed); }

  // Readers may have larger buffers as long as the largest block still fits beside them.
  bool try_take_buffer(std::uint64_t bytes) {
    if (buffers_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= room_for_buffers() &&
        try_take(bytes)) {
      return true;
    }
    buffers_.fetch_sub(bytes, std::memory_order_relaxed);
    return false;
  }
  void give_back_buffer(std::uint64_t bytes) {
    buffers_.fetch_sub(bytes, std::memory_order_relaxed);
    give_back(bytes);
  }

  // The memory that has to fit into an explicit limit at once: the largest block.
  void note_block(std::uint64_t bytes) { block_.store(bytes, std::memory_order_relaxed); }
  std::uint64_t block() const { return block_.load(std::memory_order_relaxed); }
  // Readers beyond the number that fits beside that block. They end with their jobs.
  void note_surplus_readers(int number) { surplus_.store(number, std::memory_order_relaxed); }
  // True if readers have memory that the largest block needs.
  bool readers_exceed() const {
    const std::uint64_t buffers = buffers_.load(std::memory_order_relaxed);
    return surplus_.load(std::memory_order_relaxed) > 0 ||
           (buffers > 0 && buffers > room_for_buffers());
  }

 private:
  std::uint64_t of_readers() const {
    return std::max(set_aside_bytes(), readers_.load(std::memory_order_relaxed));
  }
  std::uint64_t room_for_buffers() const {
    const std::uint64_t room = limit() - std::min(limit(), block());
    return room - std::min(room, of_readers());
  }
  void note_peak() {
    const std::uint64_t used = this->used();
    std::uint64_t peak = peak_.load(std::memory_order_relaxed);
    while (used > peak && !peak_.compare_exchange_weak(peak, used, std::memory_order_relaxed)) {
    }
  }
  std::atomic<std::uint64_t> limit_;
  std::atomic<std::uint64_t> used_{0};     // but for readers, with their buffers
  std::atomic<std::uint64_t> readers_{0};  // bytes that they hold
  std::atomic<std::uint64_t> set_aside_{0};
  std::atomic<std::uint64_t> buffers_{0};  // of readers, beside readers_
  std::atomic<std::uint64_t> block_{0};    // the largest one; 0: the limit follows it
  std::atomic<int> surplus_{0};
  std::atomic<std::uint64_t> peak_{0};
};

}  // namespace streamer

// The staging path by itself, and what its copies report.
#pragma once

#include <condition_variable>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/standin_fixture.h"
#include "destination/destination.h"

namespace streamer {

// Collects the statuses that copies report.
class Reports {
 public:
  std::function<void(Status)> sink() {
    return [this](Status status) {
      const std::lock_guard lock(mutex_);
      statuses_.push_back(std::move(status));
      arrived_.notify_all();
    };
  }
  std::vector<Status> wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return statuses_.size() >= count; });
    return statuses_;
  }
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return statuses_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Status> statuses_;
};

class DestinationTest : public StandinTest {
 protected:
  std::unique_ptr<Destination> make(std::map<std::string, std::string> settings = {},
                                    int ordinal = 0) {
    auto made =
        make_destination({DeviceType::kCuda, ordinal}, options(std::move(settings)), budget_);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    return made.ok() ? std::move(*made) : nullptr;
  }
  // A slot that holds `bytes`.
  StagingSlot stage(Destination& destination, const std::vector<std::byte>& bytes,
                    std::uint64_t offset = 0) {
    auto slot = destination.stage(bytes.size(), offset, cancel_);
    EXPECT_TRUE(slot.ok()) << slot.status().to_string();
    std::memcpy(slot->data, bytes.data(), bytes.size());
    return *slot;
  }
  void copy(Destination& destination, StagingSlot slot, const DeviceMemory& to) {
    const iovec segment{to.data, to.size};
    destination.copy(slot, {&segment, 1}, reports_.sink());
  }

  MemoryBudget budget_{64 * kMiB};
  CancelToken cancel_;
  Reports reports_;
};

}  // namespace streamer

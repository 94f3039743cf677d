// Whichever allocation of a load fails, the load ends with the right bytes or with an error: no
// thread ends the process, and nobody waits for ever.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "source/temporary.h"
#include "streamer/stream.h"

namespace {

// Allocations that still succeed in threads that are not exempt; below zero, all of them do.
std::atomic<long> allocations_left{-1};
// From the failing one on, how many fail.
std::atomic<long> failures{0};
std::atomic<bool> failed{false};
thread_local bool exempt = false;

bool fails() {
  if (exempt || allocations_left.load(std::memory_order_relaxed) < 0) return false;
  if (allocations_left.fetch_sub(1) > 0) return false;
  allocations_left.fetch_add(1);
  if (failures.fetch_sub(1) <= 0) {
    allocations_left = -1;
    return false;
  }
  failed = true;
  return true;
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (fails()) throw std::bad_alloc();
  const std::size_t size = (bytes + alignment) / alignment * alignment;
  void* const data = alignment > alignof(std::max_align_t) ? std::aligned_alloc(alignment, size)
                                                           : std::malloc(size);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

}  // namespace

// Every form, since a sanitizer has forms of its own for those that are missing.
void* operator new(std::size_t bytes) { return allocate(bytes, 1); }
void* operator new[](std::size_t bytes) { return allocate(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return fails() ? nullptr : std::malloc(std::max<std::size_t>(bytes, 1));
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return fails() ? nullptr : std::malloc(std::max<std::size_t>(bytes, 1));
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, std::size_t) noexcept { std::free(data); }
void operator delete[](void* data, std::size_t) noexcept { std::free(data); }
void operator delete(void* data, const std::nothrow_t&) noexcept { std::free(data); }
void operator delete[](void* data, const std::nothrow_t&) noexcept { std::free(data); }
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete[](void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete(void* data, std::size_t, std::align_val_t) noexcept { std::free(data); }
void operator delete[](void* data, std::size_t, std::align_val_t) noexcept { std::free(data); }

namespace streamer {
namespace {

using testing::Directory;
using testing::matches;

enum Ending : int {
  kComplete = 0,
  kTypedError = 1,
  kWrongBytes = 2,
  kWrongError = 3,
  kNothingCame = 4,
};

// How a load goes.
struct Plan {
  FsStrategy strategy;
  bool into_memory_of_the_caller;
};

Ending verdict(Code code) {
  return code == Code::kOutOfMemory || code == Code::kCancelled ? kTypedError : kWrongError;
}

constexpr int kRanges = 24;
constexpr std::uint64_t kRangeBytes = 700'001;

// Ends with an error at the first one, whatever it is of.
Ending load(const std::string& path, const Plan& plan) {
  Options options;
  options.fs_strategy.strategy = plan.strategy;
  options.concurrency = 2;
  options.memory_limit = MemoryLimit::bytes(4 << 20);
  // Destinations outlive the stream: workers may write to them until it has ended.
  std::vector<std::byte> memory(plan.into_memory_of_the_caller ? kRanges * kRangeBytes : 0);
  auto stream = Stream::create(options);
  if (!stream.ok()) return verdict(stream.status().code());
  auto files = (*stream)->open({path}, 100);
  if (!files.ok()) return verdict(files.status().code());
  if (!(*files)[0].status.ok()) return verdict((*files)[0].status.code());
  FileRanges wanted;
  for (int i = 0; i < kRanges; ++i) {
    void* const destination = memory.empty() ? nullptr : memory.data() + i * kRangeBytes;
    // Sizes that reuse, split and join the memory of those before.
    const std::uint64_t size = i % 3 == 0 ? kRangeBytes : i % 3 == 1 ? 300'000 : 40'000;
    wanted.ranges.push_back({i * kRangeBytes, size, destination, 1});
  }
  if (auto submitted = (*stream)->submit({wanted}); !submitted.ok()) {
    return verdict(submitted.status().code());
  }
  Ending ending = kComplete;
  for (;;) {
    auto batch = (*stream)->next(std::chrono::seconds(60));
    if (!batch.ok()) return verdict(batch.status().code());
    if (batch->finished) return ending;
    if (batch->ready.empty()) return kNothingCame;
    for (const Ready& ready : batch->ready) {
      if (!ready.status.ok()) {
        ending = verdict(ready.status.code());
        if (ending == kWrongError) return ending;
        continue;
      }
      for (std::uint32_t i = 0; i < ready.count; ++i) {
        const Range& range = wanted.ranges[ready.first_range + i];
        const auto* const data = range.destination != nullptr
                                     ? static_cast<const std::byte*>(range.destination)
                                     : ready.data + ready.positions[i];
        if (!matches(data, 0, range.offset, range.size)) return kWrongBytes;
      }
    }
  }
}

// Runs the load in a child in which the allocation number `index` of the workers, or of the caller,
// fails, and `count` in all. Whether one failed.
bool survives(const std::string& path, const Plan& plan, long index, long count, bool of_caller) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    alarm(120);
    exempt = !of_caller;
    failures = count;
    allocations_left = index;
    Ending ending = kComplete;
    try {
      ending = load(path, plan);
    } catch (const std::bad_alloc&) {
      ending = of_caller ? kTypedError : kWrongError;  // not even a status could be made
    }
    _exit(ending + (failed ? 8 : 0));
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "allocation " << index << " ended the process by signal "
                                 << WTERMSIG(status);
  if (!WIFEXITED(status)) return true;
  const int ending = WEXITSTATUS(status) & 7;
  EXPECT_LE(ending, kTypedError) << "allocation " << index << ": ending " << ending;
  return WEXITSTATUS(status) >= 8;
}

class OutOfMemory : public ::testing::TestWithParam<Plan> {
 protected:
  void try_each(long count, bool of_caller) {
    // Threads of the parent would not exist in the children.
    long index = 0;
    while (survives(path_, GetParam(), index, count, of_caller) && !HasFailure()) ++index;
    EXPECT_GT(index, of_caller ? 10 : 30) << "few allocations were tried";
  }

  Directory directory_;
  const std::string path_ = directory_.write("a", 0, kRanges* kRangeBytes);
};

TEST_P(OutOfMemory, OneAllocationOfAWorkerFails) { try_each(1, /*of_caller=*/false); }

TEST_P(OutOfMemory, AllAllocationsOfWorkersFailFromOneOn) {
  try_each(1'000'000, /*of_caller=*/false);
}

TEST_P(OutOfMemory, OneAllocationFailsAnywhere) { try_each(1, /*of_caller=*/true); }

TEST_P(OutOfMemory, AllAllocationsFailFromOneOn) { try_each(1'000'000, /*of_caller=*/true); }

INSTANTIATE_TEST_SUITE_P(Plans, OutOfMemory,
                         ::testing::Values(Plan{FsStrategy::kDirect, false},
                                           Plan{FsStrategy::kMapped, false},
                                           Plan{FsStrategy::kBuffered, true}),
                         [](const auto& plan) {
                           return std::string(fs_strategy_name(plan.param.strategy));
                         });

}  // namespace
}  // namespace streamer

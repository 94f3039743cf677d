// Streams of files in a directory of the test's own, by each strategy.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "source/temporary.h"
#include "streamer/stream.h"

namespace streamer::testing {

struct Piece {
  std::uint64_t seed, offset, size;
  const std::byte* data;
  std::shared_ptr<void> memory;
};

class Streaming : public ::testing::TestWithParam<FsStrategy> {
 protected:
  std::unique_ptr<Stream> make(Options options = {}) {
    options.fs_strategy.strategy = GetParam();
    auto stream = Stream::create(std::move(options));
    EXPECT_TRUE(stream.ok()) << stream.status().to_string();
    return std::move(*stream);
  }

  // Takes everything of `stream`; each file's seed is its number.
  static Status drain(Stream& stream, const std::vector<FileRanges>& wanted,
                      std::vector<Piece>* pieces) {
    Status first;
    for (;;) {
      auto batch = stream.next(std::chrono::milliseconds(60000));
      if (!batch.ok()) return batch.status();
      EXPECT_TRUE(!batch->ready.empty() || batch->finished) << "nothing came";
      if (batch->ready.empty()) return first;
      for (Ready& ready : batch->ready) {
        if (!ready.status.ok() && first.ok()) first = ready.status;
        if (!ready.status.ok()) continue;
        for (std::uint32_t i = 0; i < ready.count; ++i) {
          const Range& range = wanted[ready.entry].ranges[ready.first_range + i];
          const std::byte* data = range.destination != nullptr
                                      ? static_cast<std::byte*>(range.destination)
                                  : range.size == 0 ? nullptr
                                                    : ready.data + ready.positions[i];
          pieces->push_back({ready.file, range.offset, range.size, data, ready.memory});
        }
      }
    }
  }

  Directory directory_;
};

inline auto strategies() {
  return ::testing::Values(FsStrategy::kAuto, FsStrategy::kMapped, FsStrategy::kBuffered,
                           FsStrategy::kDirect);
}
inline std::string name_of(const ::testing::TestParamInfo<FsStrategy>& strategy) {
  return fs_strategy_name(strategy.param);
}

}  // namespace streamer::testing

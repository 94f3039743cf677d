#include "engine/chunk.h"

#include <gtest/gtest.h>

#include <array>
#include <map>

namespace streamer {
namespace {

TEST(Chunk, GoesOnWhereItWasCutOff) {
  Block one;
  Block other;
  std::array<std::byte, 300> memory{};
  std::byte* const at = memory.data();
  for (const std::uint64_t cut : {0, 50, 100, 150, 300}) {
    Chunk chunk;
    chunk.offset = 1000;
    chunk.size = 300;
    chunk.segments = {{at, 100}, {at + 100, 120}, {at + 220, 80}};
    chunk.shares = {{&one, 100}, {&other, 200}};
    const Chunk rest = cut_off(&chunk, cut);
    EXPECT_EQ(chunk.size, cut);
    EXPECT_EQ(rest.size, 300 - cut);
    EXPECT_EQ(rest.offset, 1000 + cut);
    EXPECT_EQ(rest.cuts, 1);
    std::vector<std::byte*> places;
    std::map<Block*, std::uint64_t> shares;
    for (const Chunk* part : {static_cast<const Chunk*>(&chunk), &rest}) {
      for (const iovec& segment : part->segments) {
        EXPECT_GT(segment.iov_len, 0u);
        for (std::size_t i = 0; i < segment.iov_len; ++i) {
          places.push_back(static_cast<std::byte*>(segment.iov_base) + i);
        }
      }
      EXPECT_EQ(places.size(), part == &chunk ? cut : 300);
      for (const Chunk::Share& share : part->shares) shares[share.block] += share.bytes;
    }
    ASSERT_EQ(places.size(), 300u);
    for (std::size_t i = 0; i < 300; ++i) EXPECT_EQ(places[i], at + i);
    EXPECT_EQ(shares[&one], 100u);
    EXPECT_EQ(shares[&other], 200u);
  }
}

}  // namespace
}  // namespace streamer

#include "engine/slabs.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/memory_units.h"
#include "engine/fake_address_space.h"

namespace streamer {
namespace {

using Piece = std::pair<std::byte*, std::uint64_t>;

// Bytes of `slabs` that have pages.
std::uint64_t resident(const std::vector<Piece>& slabs) {
  std::uint64_t bytes = 0;
  for (const auto& [start, size] : slabs) {
    std::vector<unsigned char> pages(size / page_size());
    EXPECT_EQ(mincore(start, size, pages.data()), 0);
    for (const unsigned char page : pages) bytes += (page & 1) * page_size();
  }
  return bytes;
}

// Remembers what is mapped, and maps it.
class Recording final : public AddressSpace {
 public:
  std::byte* map(std::uint64_t bytes, Pages pages, Place place) override {
    std::byte* const data = system().map(bytes, pages, place);
    mapped.emplace_back(data, bytes);
    return data;
  }
  void release(std::byte* data, std::uint64_t bytes) override { unmap(data, bytes); }
  void unmap(std::byte* data, std::uint64_t bytes) override {
    std::erase(mapped, Piece{data, bytes});
    system().unmap(data, bytes);
  }
  void discard(std::byte* data, std::uint64_t bytes) override { system().discard(data, bytes); }
  bool move(std::byte*, std::uint64_t, std::byte*) override { return false; }

  std::vector<Piece> mapped;
};

TEST(Slabs, PiecesAreApartAndAlignedTo64) {
  Slabs slabs(AddressSpace::system());
  std::mt19937 random(1);
  std::vector<Piece> pieces;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t bytes = 64 * (1 + random() % 2000);
    std::byte* const data = slabs.allocate(bytes);
    ASSERT_NE(data, nullptr);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(data) % 64, 0u);
    std::memset(data, i % 251, bytes);
    pieces.emplace_back(data, bytes);
    if (i % 3 == 2) {  // every third one goes, and others take its place
      slabs.release(pieces[i - 1].first, pieces[i - 1].second);
      pieces[i - 1].second = 0;
    }
    if (i == 500) slabs.close();
  }
  for (int i = 0; i < 1000; ++i) {
    for (std::uint64_t at = 0; at < pieces[i].second; ++at) {
      ASSERT_EQ(pieces[i].first[at], std::byte(i % 251));
    }
    if (pieces[i].second > 0) slabs.release(pieces[i].first, pieces[i].second);
  }
}

TEST(Slabs, PiecesThatAreDroppedInOrderNeedNoFreshMemory) {
  testing::FakeAddressSpace space;
  Slabs slabs(space);
  std::deque<std::byte*> held;
  std::uint64_t most = 0;
  for (int i = 0; i < 10'000; ++i) {
    held.push_back(slabs.allocate(33'000 / 64 * 64));
    if (held.size() > 60) {
      slabs.release(held.front(), 33'000 / 64 * 64);
      held.pop_front();
    }
    most = std::max(most, space.mapped());
  }
  EXPECT_LE(most, 5 * Slabs::kSlab);
  EXPECT_LE(space.maps(), 5);
  for (std::byte* const data : held) slabs.release(data, 33'000 / 64 * 64);
  slabs.close();
  EXPECT_EQ(space.mapped(), 0u);
  EXPECT_FALSE(space.broken());
}

// Whoever keeps one piece of each slab has little more than these, before and after the end.
TEST(Slabs, PagesWithoutAPieceGoBackToTheSystem) {
  for (const bool close_first : {false, true}) {
    for (const std::uint64_t bytes : {std::uint64_t{64}, std::uint64_t{1024}, 24 * kKiB}) {
      Recording space;
      Slabs slabs(space);
      const std::uint64_t each = Slabs::kSlab / bytes;
      std::vector<std::byte*> pieces;
      for (std::uint64_t i = 0; i < 20 * each; ++i) {
        pieces.push_back(slabs.allocate(bytes));
        ASSERT_NE(pieces.back(), nullptr);
        std::memset(pieces.back(), 1, bytes);
      }
      EXPECT_GE(resident(space.mapped), 19 * Slabs::kSlab);
      if (close_first) slabs.close();
      for (std::uint64_t i = 0; i < pieces.size(); ++i) {
        if (i % each != each / 2) slabs.release(pieces[i], bytes);
      }
      const std::uint64_t kept = 20 * (bytes + 2 * page_size());
      const std::uint64_t idle = close_first ? 0 : Slabs::kMostIdle + Slabs::kSlab;
      EXPECT_LE(resident(space.mapped), kept + idle) << bytes << ' ' << close_first;
      if (!close_first) slabs.close();
      EXPECT_LE(resident(space.mapped), kept) << bytes << ' ' << close_first;
      for (std::uint64_t i = 0; i < 20; ++i) {
        EXPECT_EQ(pieces[i * each + each / 2][0], std::byte{1});
        slabs.release(pieces[i * each + each / 2], bytes);
      }
      EXPECT_TRUE(space.mapped.empty());
    }
  }
}

TEST(Slabs, ASystemWithoutMemoryGivesNull) {
  testing::FakeAddressSpace space;
  Slabs slabs(space);
  space.refuse(1);
  EXPECT_EQ(slabs.allocate(64), nullptr);
  EXPECT_NE(slabs.allocate(64), nullptr);
}

TEST(Slabs, AForkedChildDropsPiecesWhateverOtherThreadsDid) {
  Slabs slabs(AddressSpace::system());
  std::vector<std::byte*> pieces;
  for (int i = 0; i < 100; ++i) pieces.push_back(slabs.allocate(40'000 / 64 * 64));
  std::atomic<bool> ended{false};
  std::thread other([&] {
    while (!ended) slabs.release(slabs.allocate(64), 64);
  });
  for (int i = 0; i < 30; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      for (std::byte* const data : pieces) slabs.release(data, 40'000 / 64 * 64);
      slabs.close();
      _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }
  ended = true;
  other.join();
  for (std::byte* const data : pieces) slabs.release(data, 40'000 / 64 * 64);
}

}  // namespace
}  // namespace streamer

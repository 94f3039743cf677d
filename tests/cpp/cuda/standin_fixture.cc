#include "cuda/standin_fixture.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace streamer {

void StandinTest::SetUp() {
  standin_reset(2, kGiB);
  standin_use(0);
  directory_ = std::filesystem::temp_directory_path() /
               ("streamer-cuda-" + std::to_string(getpid()) + "-" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name());
  std::filesystem::create_directories(directory_);
}

void StandinTest::TearDown() {
  EXPECT_EQ(counts().violations, 0U) << standin_violation();
  EXPECT_EQ(counts().pinned_bytes, 0U);
  EXPECT_EQ(counts().streams, 0U);
  EXPECT_EQ(counts().events, 0U);
  EXPECT_EQ(counts().device_bytes, 0U);
  standin_reset(2, kGiB);
  std::filesystem::remove_all(directory_);
}

std::vector<std::byte> StandinTest::content(std::uint64_t size, std::uint32_t seed) {
  std::vector<std::byte> bytes(size);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    byte = static_cast<std::byte>(state >> 56);
  }
  return bytes;
}

std::string StandinTest::make_file(const std::string& name, std::uint64_t size,
                                   std::uint32_t seed) {
  const std::vector<std::byte> bytes = content(size, seed);
  const std::string path = (directory_ / name).string();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(size));
  return path;
}

Options StandinTest::options(std::map<std::string, std::string> settings) {
  Options options;
  options.source = std::move(settings);
  options.source.emplace("RUNAI_STREAMER_CUDA_LIBRARY", STANDIN_CUDA);
  return options;
}

standin_counts StandinTest::counts() {
  standin_counts counts{};
  standin_count(&counts);
  return counts;
}

std::vector<Status> StandinTest::drain(Stream& stream, std::size_t ranges) {
  std::vector<Status> statuses(ranges, Status::error(Code::kInternal, "not delivered"));
  for (;;) {
    auto batch = stream.next();
    EXPECT_TRUE(batch.ok()) << batch.status().to_string();
    if (!batch.ok()) return statuses;
    for (const Ready& ready : batch->ready) {
      for (std::uint32_t i = 0; i < ready.count; ++i) {
        if (ready.first_range + i < ranges) statuses[ready.first_range + i] = ready.status;
      }
    }
    if (batch->finished) return statuses;
  }
}

}  // namespace streamer

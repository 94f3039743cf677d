// Files read straight into device memory, on the stand-in of libcufile.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "cuda/standin_fixture.h"

extern "C" {
void standin_cufile_fail(const char* function, int after);
std::uint64_t standin_cufile_reads();
std::uint64_t standin_cufile_handles();
}

namespace streamer {
namespace {

constexpr std::uint64_t kSize = 9 * kMiB + 321;
const char* const kNote = "GPUDirect Storage";

class GpuDirectTest : public StandinTest {
 protected:
  // Loads a file of kSize bytes, checks them, and returns what the load tells about itself.
  Stats load(std::map<std::string, std::string> settings) {
    const std::string path = make_file("model", kSize);
    const DeviceMemory memory(kSize);
    auto stream = Stream::create(options(std::move(settings)));
    EXPECT_TRUE(stream.ok()) << stream.status().to_string();
    EXPECT_TRUE((*stream)->open({path}).ok());
    std::vector<Range> ranges;
    for (std::uint64_t offset = 0; offset < kSize;) {
      const std::uint64_t size = std::min<std::uint64_t>(ranges.size() * 100'003, kSize - offset);
      ranges.push_back({offset, size, memory.data + offset});
      offset += size;
    }
    const std::size_t count = ranges.size();
    EXPECT_TRUE((*stream)->submit({{0, std::move(ranges)}}, {DeviceType::kCuda, 0}).ok());
    for (const Status& status : drain(**stream, count)) {
      EXPECT_TRUE(status.ok()) << status.to_string();
    }
    EXPECT_EQ(memory.bytes(), content(kSize));
    Stats stats = (*stream)->stats();
    stream->reset();
    EXPECT_EQ(standin_cufile_handles(), 0U);
    return stats;
  }
  static std::map<std::string, std::string> asked(const std::string& library = STANDIN_CUFILE) {
    return {{"RUNAI_STREAMER_GPUDIRECT", "1"}, {"RUNAI_STREAMER_CUFILE_LIBRARY", library}};
  }
};

TEST_F(GpuDirectTest, IsOffByDefault) {
  const std::uint64_t before = standin_cufile_reads();
  const Stats stats = load({{"RUNAI_STREAMER_CUFILE_LIBRARY", STANDIN_CUFILE}});
  EXPECT_EQ(standin_cufile_reads(), before);
  EXPECT_EQ(stats.notes.count(kNote), 0U);
}

TEST_F(GpuDirectTest, ReadsWithoutStagingWhereItIsAskedFor) {
  const Stats stats = load(asked());
  EXPECT_EQ(stats.notes.at(kNote), "used");
  EXPECT_EQ(stats.bytes_by_strategy.at("gpudirect"), kSize);
  EXPECT_EQ(counts().registrations, 0U);
  EXPECT_EQ(counts().copies, 0U);
}

TEST_F(GpuDirectTest, SaysWhyItIsNotUsed) {
  Stats stats = load(asked("/nonexistent/libcufile.so.0"));
  EXPECT_NE(stats.notes.at(kNote).find("not used: /nonexistent/libcufile.so.0"), std::string::npos)
      << stats.notes.at(kNote);
  stats = load(asked("libm.so.6"));
  EXPECT_NE(stats.notes.at(kNote).find("lacks the functions"), std::string::npos);
  standin_cufile_fail("cuFileDriverOpen", 0);
  stats = load(asked());
  EXPECT_NE(stats.notes.at(kNote).find("error 5001"), std::string::npos);
  standin_cufile_fail("cuFileHandleRegister", 0);
  stats = load(asked());
  EXPECT_NE(stats.notes.at(kNote).find("a file was refused (error 5027)"), std::string::npos);
}

TEST_F(GpuDirectTest, StagesWhatItFailsToRead) {
  standin_cufile_fail("cuFileRead", 2);
  const Stats stats = load(asked());
  EXPECT_NE(stats.notes.at(kNote).find("a read failed (error 5011)"), std::string::npos);
  EXPECT_GT(stats.bytes_by_strategy.at("gpudirect"), 0U);
  EXPECT_GT(counts().copies, 0U);
}

TEST_F(GpuDirectTest, StartsAfterTheCallersStream) {
  const std::string path = make_file("model", kMiB);
  const DeviceMemory memory(kMiB);
  void* const own = standin_stream_create();
  auto stream = Stream::create(options(asked()));
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE((*stream)->open({path}).ok());
  standin_fill_later(own, memory.data, memory.size, 0xEE, 50);
  ASSERT_TRUE((*stream)->submit({{0, {{0, kMiB, memory.data}}}}, {DeviceType::kCuda, 0, own}).ok());
  for (const Status& status : drain(**stream, 1)) EXPECT_TRUE(status.ok());
  EXPECT_EQ(memory.bytes(), content(kMiB));
  stream->reset();
  standin_stream_destroy(own);
}

TEST_F(GpuDirectTest, RefusesASettingThatIsNone) {
  const std::string path = make_file("model", kMiB);
  const DeviceMemory memory(kMiB);
  auto stream = Stream::create(options({{"RUNAI_STREAMER_GPUDIRECT", "perhaps"}}));
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE((*stream)->open({path}).ok());
  const auto submitted = (*stream)->submit({{0, {{0, kMiB, memory.data}}}}, {DeviceType::kCuda, 0});
  EXPECT_EQ(submitted.status().code(), Code::kInvalid);
}

}  // namespace
}  // namespace streamer

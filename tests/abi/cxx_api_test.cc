// The C++ API as an embedder sees it: through the shared library and the public headers only.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "streamer/settings.h"
#include "streamer/stream.h"
#include "temporary.h"

namespace {

TEST(CxxApi, StreamsThroughItsOwnMemoryWhichOutlivesTheStream) {
  const TemporaryDirectory directory;
  const std::vector<char> content = noise(2 << 20, 5);
  const std::string path = directory.write("a", content);
  auto options = streamer::Options::from_environment();
  ASSERT_TRUE(options.ok());
  std::vector<std::shared_ptr<void>> kept;
  std::vector<std::pair<const std::byte*, std::uint64_t>> pieces;
  {
    auto stream = streamer::Stream::create(*options);
    ASSERT_TRUE(stream.ok());
    auto files = (*stream)->open({path}, 16);
    ASSERT_TRUE(files.ok());
    ASSERT_EQ(files->at(0).size, content.size());
    ASSERT_EQ(std::memcmp(files->at(0).prefix.data(), content.data(), 16), 0);
    streamer::FileRanges wanted{0, {}};
    for (std::uint64_t at = 0; at < content.size(); at += 300000) {
      wanted.ranges.push_back({at, std::min<std::uint64_t>(300000, content.size() - at)});
    }
    ASSERT_TRUE((*stream)->submit({wanted}).ok());
    std::uint32_t next = 0;
    for (bool finished = false; !finished;) {
      auto batch = (*stream)->next();
      ASSERT_TRUE(batch.ok());
      for (streamer::Ready& ready : batch->ready) {
        ASSERT_TRUE(ready.status.ok());
        EXPECT_EQ(ready.first_range, next) << "file order";
        next += ready.count;
        for (std::uint32_t i = 0; i < ready.count; ++i) {
          pieces.emplace_back(ready.data + ready.positions[i],
                              wanted.ranges[ready.first_range + i].size);
        }
        kept.push_back(std::move(ready.memory));
      }
      finished = batch->finished;
    }
    EXPECT_EQ(next, wanted.ranges.size());
    EXPECT_EQ((*stream)->stats().bytes, content.size());
  }
  const char* at = content.data();
  for (const auto& [data, size] : pieces) {
    EXPECT_EQ(std::memcmp(data, at, size), 0);
    at += size;
  }
}

TEST(CxxApi, StatusTellsWhatWhereAndWhatToDo) {
  const TemporaryDirectory directory;
  auto stream = streamer::Stream::create({});
  ASSERT_TRUE(stream.ok());
  auto files = (*stream)->open({directory.at("missing")});
  ASSERT_TRUE(files.ok());
  const streamer::Status& status = files->at(0).status;
  EXPECT_EQ(status.code(), streamer::Code::kNotFound);
  EXPECT_EQ(status.detail().path, directory.at("missing"));
  EXPECT_EQ(status.detail().os_error, ENOENT);
  EXPECT_NE(status.to_string().find(directory.at("missing")), std::string::npos);
  EXPECT_STREQ(streamer::code_name(status.code()), "not_found");
}

TEST(CxxApi, ListsAndKnowsKindsSettingsAndItsVersion) {
  const TemporaryDirectory directory;
  directory.write("b", noise(3, 1));
  directory.write("a", noise(5, 1));
  auto found = streamer::list(directory.at(""), false, {});
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 2U);
  EXPECT_EQ(found->at(0).path, directory.at("a"));
  EXPECT_EQ(found->at(0).size, 5U);
  EXPECT_EQ(*streamer::source_kind_of("gs://bucket/key"), streamer::SourceKind::kGcs);
  EXPECT_FALSE(streamer::source_kind_of("ftp://x/y").ok());
  EXPECT_STREQ(streamer::version(), STREAMER_TEST_VERSION);
  EXPECT_FALSE(streamer::settings_table().empty());
  ASSERT_NE(streamer::find_setting("RUNAI_STREAMER_CONCURRENCY"), nullptr);
  EXPECT_EQ(streamer::find_setting("NO_SUCH"), nullptr);
  EXPECT_EQ(streamer::default_text(*streamer::find_setting("RUNAI_STREAMER_CONCURRENCY")),
            "adaptive");
}

}  // namespace

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "streamer/types.h"

namespace streamer {
namespace {

TEST(SourceKinds, EveryKindHasAName) {
  for (int kind = 0; kind < kSourceKinds; ++kind) {
    EXPECT_STRNE(source_kind_name(static_cast<SourceKind>(kind)), "unknown");
  }
  EXPECT_STREQ(source_kind_name(static_cast<SourceKind>(kSourceKinds)), "unknown");
}

TEST(SourceKinds, TheSchemeChoosesTheKind) {
  const std::pair<const char*, SourceKind> rows[] = {
      {"/models/a", SourceKind::kFile},
      {"a/s3://b", SourceKind::kFile},
      {"s3://bucket/a", SourceKind::kS3},
      {"S3://bucket/a", SourceKind::kS3},
      {"gs://bucket/a", SourceKind::kGcs},
      {"az://container/a", SourceKind::kAzure},
      {"s3a://bucket/a", SourceKind::kS3},
      {"gcs://bucket/a", SourceKind::kGcs},
      {"abfss://c@a.dfs.core.windows.net/b", SourceKind::kAzure},
      {"wasb://c@a.blob.core.windows.net/b", SourceKind::kAzure},
      {"https://host/a", SourceKind::kHttp},
      {"http://host/a", SourceKind::kHttp},
      {"hf://org/name/a", SourceKind::kHub},
  };
  for (const auto& [path, kind] : rows) {
    const Result<SourceKind> found = source_kind_of(path);
    ASSERT_TRUE(found.ok()) << path;
    EXPECT_EQ(*found, kind) << path;
  }
}

TEST(SourceKinds, AnUnknownSchemeIsAnErrorThatNamesTheKnownOnes) {
  for (const char* path : {"ftp://host/a", "://a"}) {
    const Status status = source_kind_of(path).status();
    EXPECT_EQ(status.code(), Code::kInvalid) << path;
    for (const char* scheme : {"s3://", "gs://", "az://", "https://", "hf://"}) {
      EXPECT_NE(status.detail().hint.find(scheme), std::string::npos) << scheme;
    }
  }
}

TEST(SourceKinds, KeysAreWhatFollowsTheContainer) {
  const std::pair<const char*, const char*> rows[] = {
      {"/models/a", "/models/a"},
      {"s3://bucket/a/b", "a/b"},
      {"s3://bucket", ""},
      {"s3://arn:aws:s3:r:1:accesspoint/name/a/b", "a/b"},
      {"s3://arn:aws:s3:r:1:accesspoint/name", ""},
      {"s3://arn:aws:s3:r:1:accesspoint:name/a", "a"},
      {"abfss://c@a.dfs.core.windows.net/a/b", "a/b"},
      {"s3://bucket/a%20b?c", "a%20b?c"},
      {"gs://bucket/a", "a"},
      {"az://container/a", "a"},
      {"https://host/a%20b/c?sig=x/y", "a b/c"},
      {"hf://org/name/a/b", "a/b"},
      {"hf://datasets/org/name/a/b", "a/b"},
      {"hf://org/name@refs/pr/1/a", "a"},
      {"hf://org/name@main", ""},
  };
  for (const auto& [path, key] : rows) EXPECT_EQ(object_key(path), key) << path;
}

}  // namespace
}  // namespace streamer

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

TEST(SourceKinds, OnlyBucketsOfS3HaveRegions) {
  for (const char* path : {"s3://b/a", "S3A://b/a"}) EXPECT_TRUE(path_traits(path).regions) << path;
  for (const char* path : {"/a", "gs://b/a", "az://c/a", "hf://org/name", "https://s3/a"}) {
    EXPECT_FALSE(path_traits(path).regions) << path;
  }
}

TEST(SourceKinds, OnlyTheWebHasUrlsAndOnlyTheHubListsDigests) {
  for (const char* path : {"https://host/a", "HTTP://host/a"}) {
    EXPECT_TRUE(path_traits(path).url) << path;
    EXPECT_FALSE(path_traits(path).lists_digests) << path;
  }
  EXPECT_TRUE(path_traits("https://account.blob.core.windows.net/c/a").url);
  EXPECT_TRUE(path_traits("HF://org/name").lists_digests);
  for (const char* path : {"/a", "a/https://b", "s3://b/a", "az://c/a", "ftp://host/a", "://a"}) {
    EXPECT_FALSE(path_traits(path).url) << path;
    EXPECT_FALSE(path_traits(path).lists_digests) << path;
  }
  EXPECT_FALSE(path_traits("hf://org/name").url);
}

TEST(SourceKinds, OnlyDirectoriesOfTheHubHaveVersions) {
  const std::pair<const char*, const char*> rows[] = {
      {"hf://org/name", "hf://org/name@c"},
      {"hf://org/name/", "hf://org/name@c/"},
      {"hf://org/name/a/b", "hf://org/name@c/a/b"},
      {"HF://org/name@main/a/", "HF://org/name@c/a/"},
      {"hf://org/name@refs/pr/1", "hf://org/name@c"},
      {"hf://org/name@refs/pr/1/a@b", "hf://org/name@c/a@b"},
      {"hf://datasets/org/name@v1/a", "hf://datasets/org/name@c/a"},
      {"hf://models/org/name", "hf://models/org/name@c"},
      {"hf://org", "hf://org"},
      {"s3://bucket/a", "s3://bucket/a"},
      {"/a", "/a"},
  };
  for (const auto& [path, expected] : rows) {
    EXPECT_EQ(at_version(path, "c"), expected) << path;
    EXPECT_EQ(at_version(path, ""), path);
  }
}

TEST(SourceKinds, OnlyAzureHasSettingsThatSign) {
  for (int kind = 0; kind < kSourceKinds; ++kind) {
    if (static_cast<SourceKind>(kind) == SourceKind::kAzure) continue;
    EXPECT_FALSE(settings_sign(static_cast<SourceKind>(kind), "container"));
  }
}

}  // namespace
}  // namespace streamer

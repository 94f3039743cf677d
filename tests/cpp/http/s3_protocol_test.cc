#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "source/http/protocol.h"

namespace streamer::http {
namespace {

class S3Protocol : public ::testing::Test {
 protected:
  std::unique_ptr<Protocol> make(std::map<std::string, std::string> settings) {
    settings.try_emplace("HOME", "/nonexistent");
    settings.try_emplace("RUNAI_STREAMER_S3_UNSIGNED", "1");
    const Settings chosen(settings);
    auto made = make_s3({chosen, provider_});
    return std::move(*made);
  }
  Request read(Protocol& protocol, const Location& location) {
    return *protocol.make_read(location, std::nullopt, {}, nullptr);
  }

 private:
  const CredentialsProvider provider_;
};

TEST_F(S3Protocol, StylesTakeTurnsUntilTheStoreResponds) {
  const auto protocol = make({{"AWS_ENDPOINT_URL", "http://minio:9000"}});
  const Location location = *protocol->locate("s3://bucket/key", /*directory=*/false);
  for (int turn = 0; turn < 3; ++turn) {
    const Request first = read(*protocol, location);
    EXPECT_EQ(first.url, "http://bucket.minio:9000/key");
    EXPECT_TRUE(protocol->elsewhere(location, first, nullptr, false));
    const Request second = read(*protocol, location);
    EXPECT_EQ(second.url, "http://minio:9000/bucket/key");
    // Another connection may have begun before that.
    EXPECT_TRUE(protocol->elsewhere(location, first, nullptr, false));
    EXPECT_FALSE(protocol->elsewhere(location, second, nullptr, false));
  }
}

TEST_F(S3Protocol, TheStyleThatTheStoreRespondedToIsKept) {
  const auto protocol = make({{"AWS_ENDPOINT_URL", "http://minio:9000"}});
  const Location location = *protocol->locate("s3://bucket/key", /*directory=*/false);
  const Request first = read(*protocol, location);
  EXPECT_FALSE(protocol->elsewhere(location, first, nullptr, true));
  EXPECT_EQ(read(*protocol, location).url, first.url);
  EXPECT_TRUE(protocol->elsewhere(location, first, nullptr, false));
  const Request second = read(*protocol, location);
  EXPECT_FALSE(protocol->elsewhere(location, second, nullptr, true));
  EXPECT_EQ(read(*protocol, location).url, second.url);
  EXPECT_TRUE(protocol->elsewhere(location, first, nullptr, true));
}

TEST_F(S3Protocol, OnlyARefusalOfAnotherServerLeadsToTheOtherStyle) {
  const auto protocol = make({{"AWS_ENDPOINT_URL", "http://minio:9000"}});
  const Location location = *protocol->locate("s3://bucket/key", /*directory=*/false);
  const Request first = read(*protocol, location);
  Response store;
  store.status = 404;
  store.body = "<Error><Code>NoSuchKey</Code></Error>";
  EXPECT_FALSE(protocol->elsewhere(location, first, &store, false));
  Response other;
  other.status = 404;
  other.body = "default backend - 404";
  EXPECT_TRUE(protocol->elsewhere(location, first, &other, false));
}

TEST_F(S3Protocol, HostsOfAwsAndSettingsAreNotReplaced) {
  for (const auto& settings :
       {std::map<std::string, std::string>{},
        std::map<std::string, std::string>{{"AWS_ENDPOINT_URL", "http://minio:9000"},
                                           {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "1"}}}) {
    const auto protocol = make(settings);
    const Location location = *protocol->locate("s3://bucket/key", /*directory=*/false);
    EXPECT_FALSE(protocol->elsewhere(location, read(*protocol, location), nullptr, false));
  }
}

TEST_F(S3Protocol, APathNamesAVersion) {
  const auto protocol = make({});
  const Location location = *protocol->locate("s3://bucket/a?b?versionId=x%2Fy", false);
  EXPECT_EQ(location.key, "a?b");
  EXPECT_EQ(location.version_id, "x/y");
  EXPECT_EQ(protocol->locate("s3://bucket/a?versionId=x", true)->version_id, "");
}

TEST_F(S3Protocol, AnAccessPointStandsInPlaceOfABucket) {
  const auto protocol = make({});
  for (const std::string separator : {"/", ":"}) {
    const std::string arn = "arn:aws:s3:us-west-2:123456789012:accesspoint" + separator + "mine";
    const Location location = *protocol->locate("s3://" + arn + "/a/b", /*directory=*/false);
    EXPECT_EQ(location.container, arn);
    EXPECT_EQ(location.key, "a/b");
    EXPECT_EQ(read(*protocol, location).url,
              "https://mine-123456789012.s3-accesspoint.us-west-2.amazonaws.com/a/b");
    EXPECT_EQ(protocol->locate("s3://" + arn, /*directory=*/false).status().code(), Code::kInvalid);
  }
}

}  // namespace
}  // namespace streamer::http

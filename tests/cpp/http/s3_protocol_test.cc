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

TEST_F(S3Protocol, AHostThatDoesNotResolveIsRememberedForPathStyle) {
  const auto protocol = make({{"AWS_ENDPOINT_URL", "http://minio:9000"}});
  const Location location = *protocol->locate("s3://bucket/key", /*directory=*/false);
  const Request first = read(*protocol, location);
  EXPECT_EQ(first.url, "http://bucket.minio:9000/key");
  EXPECT_TRUE(protocol->unresolved(location, first));
  EXPECT_EQ(read(*protocol, location).url, "http://minio:9000/bucket/key");
  // Another connection may have begun before that.
  EXPECT_TRUE(protocol->unresolved(location, first));
  EXPECT_FALSE(protocol->unresolved(location, read(*protocol, location)));
}

TEST_F(S3Protocol, HostsOfAwsAndSettingsAreNotReplaced) {
  for (const auto& settings :
       {std::map<std::string, std::string>{},
        std::map<std::string, std::string>{{"AWS_ENDPOINT_URL", "http://minio:9000"},
                                           {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "1"}}}) {
    const auto protocol = make(settings);
    const Location location = *protocol->locate("s3://bucket/key", /*directory=*/false);
    EXPECT_FALSE(protocol->unresolved(location, read(*protocol, location)));
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

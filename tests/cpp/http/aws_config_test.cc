#include "source/http/s3/aws_config.h"

#include <gtest/gtest.h>

#include "source/http/s3/addressing.h"

namespace streamer::http {
namespace {

TEST(AwsIni, SectionsCommentsAndNestedValues) {
  const Sections sections = parse_aws_ini(
      "stray = 1\n# comment\n[default]\nregion=eu-west-1 ; why\naws_access_key_id = A=B # x\n"
      "[profile p]\ns3 =\n  endpoint_url = http://x\n  max = 3\nregion = r\n[broken\nno value\n");
  EXPECT_EQ(sections.at("default").at("region"), "eu-west-1");
  EXPECT_EQ(sections.at("default").at("aws_access_key_id"), "A=B");
  EXPECT_EQ(sections.at("profile p").at("s3.endpoint_url"), "http://x");
  EXPECT_EQ(sections.at("profile p").at("region"), "r");
  EXPECT_FALSE(sections.contains("broken"));
}

S3Addressing at(const char* endpoint, std::optional<bool> virtual_hosts = std::nullopt) {
  S3Addressing addressing;
  if (*endpoint != '\0') addressing.endpoint = *parse_url(endpoint);
  addressing.virtual_hosts = virtual_hosts;
  return addressing;
}

std::string url(const S3Addressing& addressing, const char* bucket, const char* key = "k") {
  return addressing.url(bucket, key, "eu-west-1")->to_string();
}

TEST(S3Addressing, MakesHostsOfAws) {
  EXPECT_EQ(url(at(""), "bucket"), "https://bucket.s3.eu-west-1.amazonaws.com/k");
  EXPECT_EQ(url(at(""), "bucket", ""), "https://bucket.s3.eu-west-1.amazonaws.com/");
  EXPECT_EQ(url(at(""), "my.bucket"), "https://s3.eu-west-1.amazonaws.com/my.bucket/k");
  EXPECT_EQ(url(at("", false), "bucket"), "https://s3.eu-west-1.amazonaws.com/bucket/k");
  EXPECT_EQ(at("").url("b-x", "k", "cn-north-1")->to_string(),
            "https://b-x.s3.cn-north-1.amazonaws.com.cn/k");
}

TEST(S3Addressing, PutsTheBucketIntoAnEndpoint) {
  EXPECT_EQ(url(at("https://minio.example.com:9000"), "bucket"),
            "https://bucket.minio.example.com:9000/k");
  EXPECT_EQ(url(at("https://minio.example.com", false), "bucket"),
            "https://minio.example.com/bucket/k");
  EXPECT_EQ(url(at("http://127.0.0.1:9000"), "bucket"), "http://127.0.0.1:9000/bucket/k");
  EXPECT_EQ(url(at("http://127.0.0.1:9000", true), "bucket"), "http://127.0.0.1:9000/bucket/k");
  EXPECT_EQ(url(at("http://localhost:9000"), "bucket"), "http://localhost:9000/bucket/k");
  EXPECT_EQ(url(at("http://s3.localhost:9000", true), "bucket"),
            "http://bucket.s3.localhost:9000/k");
  EXPECT_EQ(url(at("http://[::1]:9000/base"), "bucket"), "http://[::1]:9000/base/bucket/k");
  EXPECT_EQ(url(at("https://e.example.com"), "Upper_Case"), "https://e.example.com/Upper_Case/k");
}

TEST(S3Addressing, KeysAreEncodedByteByByte) {
  EXPECT_EQ(url(at("http://127.0.0.1:1"), "b-b", "a b+c%d//\xC3\xBC/../e"),
            "http://127.0.0.1:1/b-b/a%20b%2Bc%25d//%C3%BC/../e");
}

TEST(S3Addressing, KnowsDirectoryBuckets) {
  EXPECT_TRUE(is_express_bucket("name--euw1-az1--x-s3"));
  EXPECT_FALSE(is_express_bucket("name--x-s3"));
  EXPECT_FALSE(is_express_bucket("--x-s3"));
  EXPECT_FALSE(is_express_bucket("bucket"));
  EXPECT_EQ(url(at(""), "name--euw1-az1--x-s3"),
            "https://name--euw1-az1--x-s3.s3express-euw1-az1.eu-west-1.amazonaws.com/k");
  EXPECT_EQ(url(at("http://127.0.0.1:1"), "name--euw1-az1--x-s3"),
            "http://127.0.0.1:1/name--euw1-az1--x-s3/k");
}

}  // namespace
}  // namespace streamer::http

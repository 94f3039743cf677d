#include "text/url.h"

#include <gtest/gtest.h>

#include "source/http/client/request_log.h"

namespace streamer::http {
namespace {

TEST(Url, SplitsIntoParts) {
  const auto url = parse_url("HTTPS://S3.Example.com:9000/a%20b/c?x=1&y#frag");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->scheme, "https");
  EXPECT_EQ(url->host, "s3.example.com");
  EXPECT_EQ(url->authority(), "s3.example.com:9000");
  EXPECT_EQ(url->path, "/a%20b/c");
  EXPECT_EQ(url->query, "x=1&y");
  EXPECT_EQ(url->to_string(), "https://s3.example.com:9000/a%20b/c?x=1&y");
}

TEST(Url, StandardPortsAreLeftOut) {
  EXPECT_EQ(parse_url("https://a:443")->authority(), "a");
  EXPECT_EQ(parse_url("http://a:80/")->authority(), "a");
  EXPECT_EQ(parse_url("http://a:443/")->authority(), "a:443");
  EXPECT_EQ(parse_url("minio:9000", "https")->to_string(), "https://minio:9000/");
}

TEST(Url, RecognisesAddresses) {
  EXPECT_TRUE(parse_url("http://127.0.0.1:1")->host_is_ip());
  const auto six = parse_url("http://[::1]:90/x");
  ASSERT_TRUE(six.ok());
  EXPECT_TRUE(six->host_is_ip());
  EXPECT_EQ(six->authority(), "[::1]:90");
  EXPECT_TRUE(parse_url("http://s3.localhost")->host_is_local());
  EXPECT_FALSE(parse_url("http://localhost.example.com")->host_is_local());
}

TEST(Url, RefusesOtherText) {
  for (const char* text :
       {"", "s3://bucket", "http://", "http://a:0", "http://a:99999", "http://a:b",
        "http://user:secret@host/", "http://a b/", "http://[::1", "host", "http://a::80",
        "http://[::1]x/", "http://a\\b/", "http://[]/", "http://a]/"}) {
    const auto url = parse_url(text);
    EXPECT_FALSE(url.ok()) << text;
    EXPECT_EQ(url.status().to_string().find("secret"), std::string::npos);
  }
}

TEST(Trace, ShowsUrlsWithoutSecrets) {
  EXPECT_EQ(redact_url("https://h/b/k?X-Amz-Signature=abc&prefix=a%2F&list-type=2&sig=x"),
            "https://h/b/k?X-Amz-Signature=...&prefix=a%2F&list-type=2&sig=...");
  EXPECT_EQ(redact_url("https://h/k?secret"), "https://h/k?...");
  EXPECT_EQ(redact_url("https://h/k?prefix=secret", /*own=*/false), "https://h/k?...");
  EXPECT_EQ(redact_url("https://user:secret@h/k"), "https://h/k");
  EXPECT_EQ(redact_url("https://h/k"), "https://h/k");
}

}  // namespace
}  // namespace streamer::http

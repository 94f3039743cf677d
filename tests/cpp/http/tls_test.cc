#include "source/http/client/tls.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>

namespace streamer::http {
namespace {

// Any file and directory that can be read.
constexpr const char* kFile = "/proc/self/status";
constexpr const char* kOther = "/proc/self/stat";

Result<TrustStore> find(std::map<std::string, std::string> settings) {
  // Nothing of the environment of the test.
  for (const char* name :
       {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}) {
    settings.try_emplace(name, "");
  }
  return find_trust_store(Settings(std::move(settings)), SourceKind::kHttp, "");
}

TrustStore chosen(std::map<std::string, std::string> settings) {
  return *find(std::move(settings));
}

TEST(TrustStore, VariablesHaveAnOrder) {
  EXPECT_EQ(chosen({{"SSL_CERT_FILE", kFile}, {"REQUESTS_CA_BUNDLE", kOther}}).file, kFile);
  EXPECT_EQ(chosen({{"REQUESTS_CA_BUNDLE", kFile}, {"CURL_CA_BUNDLE", kOther}}).file, kFile);
  EXPECT_EQ(chosen({{"CURL_CA_BUNDLE", kOther}}).file, kOther);
  EXPECT_EQ(chosen({{"SSL_CERT_DIR", "/proc"}, {"CURL_CA_BUNDLE", kOther}}).file, "");
}

TEST(TrustStore, FileAndDirectoryAreUsedTogether) {
  const TrustStore both = chosen({{"SSL_CERT_FILE", kFile}, {"SSL_CERT_DIR", "/proc"}});
  EXPECT_EQ(both.file, kFile);
  EXPECT_EQ(both.directory, "/proc");
}

TEST(TrustStore, ABundleMayBeADirectory) {
  EXPECT_EQ(chosen({{"REQUESTS_CA_BUNDLE", "/proc"}}).directory, "/proc");
}

TEST(TrustStore, AFileThatIsNotThereIsAnErrorThatNamesItsVariable) {
  for (const char* name : {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}) {
    const Status status = find({{name, "/nonexistent"}}).status();
    EXPECT_EQ(status.code(), Code::kInvalid);
    EXPECT_NE(status.to_string().find(name), std::string::npos);
  }
}

}  // namespace
}  // namespace streamer::http

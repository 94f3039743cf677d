#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "source/http/protocol.h"

namespace streamer::http {
namespace {

class AzureProtocol : public ::testing::Test {
 protected:
  std::unique_ptr<Protocol> make() {
    auto made = make_azure({settings_, provider_});
    return std::move(*made);
  }
  const Settings settings_{
      std::map<std::string, std::string>{{"AZURE_STORAGE_ACCOUNT_NAME", "models"}}};
  const CredentialsProvider provider_;
  const std::unique_ptr<Protocol> protocol_ = make();
};

TEST_F(AzureProtocol, HadoopsNamesAreThoseOfTheBlobEndpoint) {
  for (const char* path :
       {"abfss://c@models.dfs.core.windows.net/a%20b/d",
        "ABFS://c@models.dfs.core.windows.net/a%20b/d",
        "wasbs://c@models.blob.core.windows.net/a%20b/d", "abfss://c/a%20b/d", "az://c/a%20b/d"}) {
    const Result<Location> location = protocol_->locate(path, /*directory=*/false);
    ASSERT_TRUE(location.ok()) << path;
    EXPECT_EQ(location->key, "a%20b/d") << path;
    const Result<Request> request = protocol_->make_read(*location, std::nullopt, {}, nullptr);
    ASSERT_TRUE(request.ok()) << path;
    EXPECT_EQ(request->url, "https://models.blob.core.windows.net/c/a%2520b/d") << path;
  }
}

TEST_F(AzureProtocol, HostsThatLookLikeAzureAreRefused) {
  for (const char* path : {"abfss://c@models.dfs.core.windows.net.attacker.test/a",
                           "abfss://c@models.dfs.core.attacker.test/a", "wasbs://c@attacker.test/a",
                           "abfss://c@models@attacker.test/a"}) {
    EXPECT_EQ(protocol_->locate(path, /*directory=*/false).status().code(), Code::kInvalid) << path;
  }
}

TEST_F(AzureProtocol, ABlobIsNamedByItsVersionAfterAReplacement) {
  const Location location = *protocol_->locate("az://c/a", /*directory=*/false);
  const Request pinned = *protocol_->make_read(location, std::nullopt, {"\"1\"", "v:1"}, nullptr);
  EXPECT_EQ(pinned.url, "https://models.blob.core.windows.net/c/a");
  const Request former =
      *protocol_->make_read(location, std::nullopt, {"\"1\"", "v:1", true}, nullptr);
  EXPECT_EQ(former.url, "https://models.blob.core.windows.net/c/a?versionid=v%3A1");
}

}  // namespace
}  // namespace streamer::http

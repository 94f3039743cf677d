#include "source/http/azure/azure_account.h"

#include <gtest/gtest.h>

namespace streamer::http {
namespace {

Result<AzureAccount> read(std::map<std::string, std::string> settings) {
  for (const char* name :
       {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ENDPOINT_SUFFIX"}) {
    settings.try_emplace(name, "");  // whatever the environment says
  }
  return read_azure_account(Settings(settings));
}

TEST(AzureAccount, ConnectionStringComesFirst) {
  const auto account = read({{"AZURE_STORAGE_CONNECTION_STRING",
                              "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5PT0=;"
                              "EndpointSuffix=core.x;"},
                             {"AZURE_STORAGE_ACCOUNT_NAME", "other"}});
  ASSERT_TRUE(account.ok());
  EXPECT_EQ(account->name, "acc");
  EXPECT_EQ(account->endpoint, "https://acc.blob.core.x");
  EXPECT_EQ(account->key, "key==");
  EXPECT_EQ(account->origin, "AZURE_STORAGE_CONNECTION_STRING");
}

TEST(AzureAccount, ConnectionStringWithSignature) {
  const auto account = read({{"AZURE_STORAGE_CONNECTION_STRING",
                              "BlobEndpoint=https://acc.blob.core.windows.net/;"
                              "SharedAccessSignature=?sv=1&sig=a%3D"}});
  ASSERT_TRUE(account.ok());
  EXPECT_EQ(account->name, "acc");
  EXPECT_EQ(account->endpoint, "https://acc.blob.core.windows.net");
  EXPECT_EQ(account->sas_token, "sv=1&sig=a%3D");
}

TEST(AzureAccount, KnowsTheEmulator) {
  const auto account = read({{"AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true"}});
  ASSERT_TRUE(account.ok());
  EXPECT_EQ(account->name, "devstoreaccount1");
  EXPECT_EQ(account->endpoint, "http://127.0.0.1:10000/devstoreaccount1");
  EXPECT_EQ(account->key.size(), 64u);
}

TEST(AzureAccount, MakesTheEndpointOfAName) {
  const auto account = read({{"AZURE_STORAGE_ACCOUNT_NAME", "acc"},
                             {"AZURE_STORAGE_SAS_TOKEN", "?sig=x"},
                             {"AZURE_STORAGE_ENDPOINT_SUFFIX", "core.chinacloudapi.cn"}});
  ASSERT_TRUE(account.ok());
  EXPECT_EQ(account->endpoint, "https://acc.blob.core.chinacloudapi.cn");
  EXPECT_EQ(account->sas_token, "sig=x");
  const auto longer = read({{"AZURE_STORAGE_ACCOUNT_NAME", "acc"},
                            {"AZURE_STORAGE_ENDPOINT_SUFFIX", "blob.core.chinacloudapi.cn"}});
  EXPECT_EQ(longer->endpoint, account->endpoint);
  EXPECT_TRUE(read({})->name.empty());
}

TEST(AzureAccount, NonsenseIsToldWithoutTheSecret) {
  for (const auto& settings : std::vector<std::map<std::string, std::string>>{
           {{"AZURE_STORAGE_CONNECTION_STRING", "AccountKey=c2VjcmV0"}},
           {{"AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=sec:ret"}},
           {{"AZURE_STORAGE_CONNECTION_STRING", "secret"}},
           {{"AZURE_STORAGE_ACCOUNT_NAME", "a"}, {"AZURE_STORAGE_ACCOUNT_KEY", "sec:ret"}},
           {{"AZURE_STORAGE_ACCOUNT_NAME", "sec/ret"}}}) {
    const auto account = read(settings);
    ASSERT_FALSE(account.ok());
    EXPECT_EQ(account.status().code(), Code::kInvalid);
    EXPECT_EQ(account.status().to_string().find("sec:ret"), std::string::npos);
    EXPECT_EQ(account.status().to_string().find("c2VjcmV0"), std::string::npos);
  }
}

}  // namespace
}  // namespace streamer::http

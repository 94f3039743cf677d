#include "source/http/client/origin.h"

#include <gtest/gtest.h>

#include "source/http/azure/azure_account.h"
#include "source/http/factory.h"
#include "source/http/s3/addressing.h"
#include "streamer/stream.h"

namespace streamer::http {
namespace {

// False if `url` is not a URL at all: then no request can be made to it.
bool receives(Secret secret, const std::string& url, const OwnHosts& own) {
  const Result<Url> target = parse_url(url);
  return target.ok() && may_receive(secret, *target, own);
}

OwnHosts at(const std::string& endpoint, std::string azure_domain = "") {
  return {*parse_url(endpoint), std::move(azure_domain)};
}

// URLs that a careless comparison takes for `host` at https, port 443.
std::vector<std::string> look_alikes(const std::string& host) {
  const std::size_t dot = host.find('.');
  const std::string first = host.substr(0, dot);
  const std::string rest = dot == std::string::npos ? ".localhost" : host.substr(dot);
  return {
      "https://" + host + ".",                 // trailing dot
      "https://" + host + ":8443",             // port
      "https://" + host + ":80",               //
      "http://" + host,                        // scheme
      "http://" + host + ":443",               //
      "https://" + host + ".attacker.test",    // prefix
      "https://x." + host,                     // nested label
      "https://x." + host + ".attacker.test",  // substring
      "https://" + host + "x",                 //
      "https://" + host + "@attacker.test",    // user info
      "https://" + host + ":443@attacker.test",
      "https://me@" + host,
      "https://attacker.test/" + host,
      "https://attacker.test?" + host,
      "https://attacker.test#" + host,
      "https://attacker.test\\" + host,
      "https://attacker.test%2f." + host,
      "https://attacker.test%00" + host,
      "https://" + first + "\xe3\x80\x82" + rest.substr(1),  // ideographic full stop
      "https://" + first + "\xd0\xb0" + rest,                // a letter of another script
      "https://xn--" + host,
      "https://" + rest,  // no first label
      "https://[" + host + "]",
      "https://-" + host,
      "https://" + first + "-" + rest.substr(1),
      "https://127.0.0.1",
      "https://2130706433",
  };
}

TEST(Origin, OneOriginAlone) {
  for (const std::string host : {"huggingface.co", "storage.googleapis.com", "localhost"}) {
    const OwnHosts own = at("https://" + host);
    for (const std::string& same : {"https://" + host, "HTTPS://" + host + "/x",
                                    "https://" + host + ":443/x?y", "https://" + host + "#x"}) {
      EXPECT_TRUE(receives(Secret::kOneOrigin, same, own)) << same;
    }
    std::vector<std::string> others = look_alikes(host);
    others.push_back("https://x" + host);  // suffix without a dot
    for (const std::string& other : others) {
      EXPECT_FALSE(receives(Secret::kOneOrigin, other, own)) << other;
    }
    EXPECT_FALSE(receives(Secret::kOneOrigin, "https://" + host, {}));
  }
  EXPECT_TRUE(receives(Secret::kOneOrigin, "http://[::1]:90/x", at("http://[::1]:90")));
  EXPECT_FALSE(receives(Secret::kOneOrigin, "http://[::1]:91/x", at("http://[::1]:90")));
  EXPECT_TRUE(same_origin(std::string("https://a:443/x"), std::string("https://A?y")));
  EXPECT_FALSE(same_origin(std::string("https://a@b"), std::string("https://a")));
  EXPECT_FALSE(same_origin(std::string(""), std::string("")));
}

TEST(Origin, IdentityOfAzureGoesToAccountsOfAzure) {
  for (const char* host :
       {"models.blob.core.windows.net", "abc.blob.core.windows.net",
        "models-secondary.blob.core.windows.net", "models.blob.core.chinacloudapi.cn",
        "models.blob.core.usgovcloudapi.net", "models.z1.blob.storage.azure.net",
        "models.z42.blob.storage.azure.net", "models-secondary.z42.blob.storage.azure.net",
        "models.blob.storage.azure.net", "MODELS.Blob.Core.Windows.NET"}) {
    EXPECT_TRUE(receives(Secret::kAzureIdentity, std::string("https://") + host + "/c/b", {}))
        << host;
  }
  for (const char* host : {"models.blob.core.windows.net", "models.z42.blob.storage.azure.net",
                           "models.blob.core.chinacloudapi.cn"}) {
    for (const std::string& other : look_alikes(host)) {
      EXPECT_FALSE(receives(Secret::kAzureIdentity, other, {})) << other;
    }
  }
  for (const char* host :
       {"models.blob.core.attacker.test", "blob.core.windows.net", "core.windows.net",
        "ab.blob.core.windows.net", "models.z42.blob.core.windows.net",
        "models.zone.blob.storage.azure.net", "models.z.blob.storage.azure.net",
        "models.z1234.blob.storage.azure.net", "z42.blob.storage.azure.net.attacker.test",
        "models.x.z42.blob.storage.azure.net", "mod-els.blob.core.windows.net",
        "models-secondary-secondary.blob.core.windows.net", "-secondary.blob.core.windows.net",
        "models.dfs.core.windows.net", "models.blob.core.local", "modelsblob.core.windows.net",
        "models..blob.core.windows.net", "aaaaaaaaaaaaaaaaaaaaaaaaa.blob.core.windows.net"}) {
    EXPECT_FALSE(receives(Secret::kAzureIdentity, std::string("https://") + host, {})) << host;
  }
}

TEST(Origin, AzureDomainAndEndpointOfTheSettings) {
  OwnHosts own{.endpoint = {}, .azure_domain = "blob.core.local"};
  EXPECT_TRUE(receives(Secret::kAzureIdentity, "https://models.blob.core.local", own));
  for (const std::string& other : look_alikes("models.blob.core.local")) {
    EXPECT_FALSE(receives(Secret::kAzureIdentity, other, own)) << other;
  }
  own = at("http://127.0.0.1:10000/devstoreaccount1");
  EXPECT_TRUE(receives(Secret::kAzureIdentity, "http://127.0.0.1:10000/devstoreaccount1/c", own));
  for (const char* other : {"http://127.0.0.1:10001/devstoreaccount1", "https://127.0.0.1:10000",
                            "http://127.0.0.1", "http://127.0.0.2:10000"}) {
    EXPECT_FALSE(receives(Secret::kAzureIdentity, other, own)) << other;
  }
}

TEST(Origin, KeysOfAzureGoToTheirAccountAlone) {
  const OwnHosts own = at("https://models.blob.core.windows.net");
  EXPECT_TRUE(receives(Secret::kAzureAccount, "https://models.blob.core.windows.net/c", own));
  EXPECT_TRUE(
      receives(Secret::kAzureAccount, "https://models-secondary.blob.core.windows.net", own));
  const OwnHosts second = at("https://models-secondary.blob.core.windows.net");
  EXPECT_TRUE(receives(Secret::kAzureAccount, "https://models.blob.core.windows.net/c", second));
  std::vector<std::string> others = look_alikes("models.blob.core.windows.net");
  for (const char* host :
       {"other.blob.core.windows.net", "xmodels.blob.core.windows.net",
        "models.blob.core.chinacloudapi.cn", "models2.blob.core.windows.net",
        "models.blob.storage.azure.net", "other-secondary.blob.core.windows.net"}) {
    others.push_back(std::string("https://") + host);
  }
  for (const std::string& other : others) {
    EXPECT_FALSE(receives(Secret::kAzureAccount, other, own)) << other;
  }
  // Only Azure has secondary hosts.
  EXPECT_FALSE(receives(Secret::kAzureAccount, "https://models-secondary.corp.test",
                        at("https://models.corp.test")));
  EXPECT_FALSE(receives(Secret::kAzureAccount, "https://models.blob.core.windows.net", {}));
}

TEST(Origin, TokensOfContainersGoToTheirServices) {
  for (const char* url : {"https://credentials.test", "http://localhost:8080/x", "http://127.0.0.1",
                          "http://127.9.8.7:1", "http://[::1]:80", "http://[0:0:0:0:0:0:0:1]",
                          "http://169.254.170.2/v2", "http://169.254.170.23",
                          "http://[fd00:ec2::23]", "http://[FD00:0ec2:0::23]"}) {
    EXPECT_TRUE(receives(Secret::kAwsContainer, url, {})) << url;
  }
  for (const char* url : {"http://127.attacker.test",
                          "http://127.0.0.1.attacker.test",
                          "http://localhost.attacker.test",
                          "http://x.localhost",
                          "http://localhost.",
                          "http://localhos",
                          "http://2130706433",
                          "http://0x7f.0.0.1",
                          "http://0177.0.0.1",
                          "http://127.1",
                          "http://127.0.0.01",
                          "http://127.0.0.1.",
                          "http://128.0.0.1",
                          "http://0.0.0.0",
                          "http://169.254.170.2.attacker.test",
                          "http://169.254.170.20",
                          "http://169.254.169.254",
                          "http://[::]",
                          "http://[::2]",
                          "http://[fd00:ec2::24]",
                          "http://[::1%lo]",
                          "http://[127.0.0.1]",
                          "http://10.0.0.1",
                          "http://169.254.170.2@attacker.test"}) {
    EXPECT_FALSE(receives(Secret::kAwsContainer, url, {})) << url;
  }
}

TEST(Origin, AddressesOfThisMachineAndLinkAreInsideInEverySpelling) {
  const char* const inside[] = {"127.0.0.1",
                                "127.255.0.9",
                                "127.1",
                                "0",
                                "0.0.0.0",
                                "2130706433",
                                "0x7f000001",
                                "0x7f.1",
                                "0177.0.0.1",
                                "169.254.169.254",
                                "169.254.43518",
                                "0xa9fea9fe",
                                "localhost",
                                "LOCALHOST.",
                                "a.localhost",
                                "127.0.0.1.",
                                "[::1]",
                                "[::]",
                                "[::ffff:127.0.0.1]",
                                "[::ffff:a9fe:a9fe]",
                                "[::127.0.0.1]",
                                "[64:ff9b::169.254.169.254]",
                                "[fe80::1]",
                                "[fe80::1%25eth0]",
                                "[fd00:ec2::254]"};
  for (const std::string host : inside) {
    const auto url = parse_url("http://" + host + ":80/x");
    ASSERT_TRUE(url.ok()) << host;
    EXPECT_TRUE(is_inside(*url)) << host;
  }
  const char* const outside[] = {"10.0.0.1",        "128.0.0.1",         "126.1",
                                 "170.254.0.1",     "169.253.0.1",       "2130706433.test",
                                 "localhost.test",  "notlocalhost",      "127.0.0.1.test",
                                 "[2001:db8::1]",   "[::ffff:10.0.0.1]", "[64:ff9b::10.0.0.1]",
                                 "[fd00:ec3::254]", "[fec0::1]",         "example.test"};
  for (const std::string host : outside) {
    const auto url = parse_url("http://" + host + "/x");
    ASSERT_TRUE(url.ok()) << host;
    EXPECT_FALSE(is_inside(*url)) << host;
  }
}

TEST(Origin, ChecksHostLabels) {
  for (const std::string& label :
       {std::string("us-east-1"), std::string("a"), std::string("US-East"), std::string(63, 'a')}) {
    EXPECT_TRUE(is_host_label(label)) << label;
    EXPECT_TRUE(check_region(label).ok()) << label;
  }
  for (const std::string& label :
       {std::string(), std::string("x.attacker.test/"), std::string("us.east"), std::string("-a"),
        std::string("a-"), std::string("12"), std::string("a b"), std::string("a#"),
        std::string("a?"), std::string("a/"), std::string("a@b"), std::string("a:1"),
        std::string("a%2e"), std::string("\xc3\xbc"), std::string("a\0b", 3), std::string("a\n"),
        std::string(64, 'a')}) {
    EXPECT_FALSE(is_host_label(label)) << label;
    EXPECT_EQ(check_region(label).code(), Code::kInvalid);
  }
}

TEST(Origin, ZonesOfDirectoryBucketsAreLabels) {
  EXPECT_TRUE(is_express_bucket("models--use1-az4--x-s3"));
  S3Addressing aws;
  for (const std::string zone : {"x.attacker.test", "x.attacker.test#", "x.attacker.test?",
                                 "x@attacker.test", "x:8", "X", ""}) {
    const std::string bucket = "models--" + zone + "--x-s3";
    EXPECT_FALSE(is_express_bucket(bucket)) << bucket;
    const std::string host = parse_url(aws.url(bucket, "k", "us-east-1")->to_string())->host;
    EXPECT_TRUE(("." + host).ends_with(".s3.us-east-1.amazonaws.com")) << host;
  }
}

TEST(Origin, FindsSignaturesInQueries) {
  for (const char* url : {"https://h/?sig=x", "https://h/?a&SIG=x", "https://h/?xsig=1&sig=2",
                          "https://h/?%73ig=x", "https://h/b?X-Amz-Expires=60&X-Amz-Signature=x",
                          "https://h/?X-Goog-Signature=x#y", "https://h/?Signature=x"}) {
    EXPECT_TRUE(is_presigned(url)) << url;
  }
  for (const char* url : {"https://h/", "https://h/sig=x", "https://h/?xsig=1", "https://h/?sig",
                          "https://h/?sig=", "https://h/?a=sig=x", "https://h/#?sig=x"}) {
    EXPECT_FALSE(is_presigned(url)) << url;
  }
}

Request with(std::string url, std::string authorization = "") {
  Request request{.url = std::move(url)};
  if (!authorization.empty()) request.set("Authorization", std::move(authorization));
  return request;
}

TEST(PlainHttp, SecretsThatCanBeReplayedStayOnThisMachine) {
  for (const char* host : {"store.test", "127.attacker.test", "localhost.test", "x.localhost",
                           "10.0.0.1", "2130706433", "[fe80::1]", "169.254.170.2", "0x7f.1"}) {
    const std::string url = std::string("http://") + host + "/x";
    for (const char* scheme :
         {"Bearer ", "bearer ", "Basic ", "token ", "", "AWS4-HMAC-SHA256", "SharedKeyLite "}) {
      const Status status = check_plaintext(with(url, scheme + std::string("s3cret")));
      EXPECT_EQ(status.code(), Code::kInvalid) << url << " " << scheme;
      EXPECT_EQ(status.to_string().find("s3cret"), std::string::npos);
    }
    Request lower_case{.url = url};
    lower_case.set("authorization", "Bearer t");
    EXPECT_FALSE(check_plaintext(lower_case).ok());
    EXPECT_FALSE(check_plaintext(with(url + "?sv=1&sig=s")).ok());
    Request form = with(url);
    form.secret_body = true;
    EXPECT_FALSE(check_plaintext(form).ok());
    // Signatures of one request, and no secret at all.
    EXPECT_TRUE(check_plaintext(with(url, "AWS4-HMAC-SHA256 Credential=...")).ok());
    EXPECT_TRUE(check_plaintext(with(url, "SharedKey account:...")).ok());
    EXPECT_TRUE(check_plaintext(with(url)).ok());
    EXPECT_TRUE(check_plaintext(with(std::string("https://") + host, "Bearer t")).ok());
  }
  for (const char* host : {"localhost", "127.0.0.1:80", "127.1.2.3", "[::1]:8080"}) {
    EXPECT_TRUE(check_plaintext(with(std::string("http://") + host + "/?sig=x", "Bearer t")).ok());
  }
  Request container = with("http://169.254.170.2/v2", "Bearer t");
  container.proxy = false;
  EXPECT_TRUE(check_plaintext(container).ok());
}

Settings azure(std::map<std::string, std::string> settings) {
  for (const char* name :
       {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ENDPOINT_SUFFIX"}) {
    settings.try_emplace(name, "");
  }
  return Settings(settings);
}

TEST(AzurePaths, AreThoseOfItsHosts) {
  const Settings none = azure({});
  EXPECT_TRUE(is_azure_path("https://models.blob.core.windows.net/c/b", none));
  EXPECT_TRUE(is_azure_path("HTTPS://models.BLOB.core.windows.net:443/c/b c#1", none));
  EXPECT_FALSE(is_azure_path("https://models.blob.core.windows.net/c/b?sig=x", none));
  for (const std::string& other : look_alikes("models.blob.core.windows.net")) {
    EXPECT_FALSE(is_azure_path(other + "/c/b", none)) << other;
    EXPECT_FALSE(is_azure_path(other, none)) << other;
  }
  const Settings suffix = azure({{"AZURE_STORAGE_ENDPOINT_SUFFIX", "Core.Local"}});
  EXPECT_TRUE(is_azure_path("https://models.blob.core.local/c/b", suffix));
  EXPECT_FALSE(is_azure_path("https://models.blob.core.local/c/b", none));
  const Settings endpoint =
      azure({{"AZURE_STORAGE_CONNECTION_STRING",
              "BlobEndpoint=https://store.corp:8443/;SharedAccessSignature=x"}});
  EXPECT_TRUE(is_azure_path("https://store.corp:8443/c/b", endpoint));
  EXPECT_FALSE(is_azure_path("https://store.corp/c/b", endpoint));
  const Settings emulator = azure(
      {{"AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;BlobEndpoint=https://127.0.0.1:1/a"}});
  EXPECT_FALSE(is_azure_path("https://127.0.0.1:1/a/c/b", emulator));
}

TEST(AzurePaths, SettingsSignForTheirAccount) {
  for (const char* secret : {"AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"}) {
    const Settings settings = azure({{"AZURE_STORAGE_ACCOUNT_NAME", "models"}, {secret, "a2V5"}});
    EXPECT_TRUE(azure_settings_sign("container", settings));
    EXPECT_TRUE(azure_settings_sign("models.blob.core.windows.net/container", settings));
    EXPECT_FALSE(azure_settings_sign("models.blob.core.attacker.test/container", settings));
    EXPECT_FALSE(azure_settings_sign("other.blob.core.windows.net/container", settings));
    EXPECT_FALSE(azure_settings_sign("models.blob.core.windows.net@attacker.test/c", settings));
  }
  EXPECT_FALSE(azure_settings_sign("container", azure({{"AZURE_STORAGE_ACCOUNT_NAME", "models"}})));
  EXPECT_FALSE(azure_settings_sign("container", azure({})));
}

TEST(AzurePaths, NamesOfAccountsAreLabels) {
  for (const char* name :
       {"attacker.test#", "attacker.test?", "attacker.test/", "a@b", "a.b", "a:1"}) {
    const auto account = read_azure_account(azure({{"AZURE_STORAGE_ACCOUNT_NAME", name}}));
    EXPECT_EQ(account.status().code(), Code::kInvalid) << name;
  }
}

}  // namespace
}  // namespace streamer::http

#include "source/http/azure/azure_account.h"

#include <map>

#include "base/text.h"
#include "source/http/encoding.h"
#include "source/http/url.h"

namespace streamer::http {
namespace {

constexpr const char* kConnectionString = "AZURE_STORAGE_CONNECTION_STRING";
constexpr const char* kNameVariable = "AZURE_STORAGE_ACCOUNT_NAME";
constexpr const char* kKeyVariable = "AZURE_STORAGE_ACCOUNT_KEY";
constexpr const char* kSasVariable = "AZURE_STORAGE_SAS_TOKEN";
constexpr const char* kStandardSuffix = "core.windows.net";
// What "UseDevelopmentStorage=true" stands for: the emulator's published account and key.
constexpr const char* kEmulatorAccount = "devstoreaccount1";
constexpr const char* kEmulatorKey =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

// The fields of a connection string, names in lower case.
using Fields = std::map<std::string, std::string>;

Fields from_connection_string(const std::string& text) {
  Fields fields;
  for (const auto& [name, value] : split_pairs(text, ';')) fields[lower(trim(name))] = trim(value);
  if (lower(fields["usedevelopmentstorage"]) == "true") {
    fields.try_emplace("accountname", kEmulatorAccount);
    fields.try_emplace("accountkey", kEmulatorKey);
    fields.try_emplace("blobendpoint", std::string("http://127.0.0.1:10000/") + kEmulatorAccount);
  }
  return fields;
}

Fields from_variables(const Settings& settings) {
  // Some write it with "blob.", unlike in connection strings.
  std::string suffix = settings.text("AZURE_STORAGE_ENDPOINT_SUFFIX").value_or("");
  if (suffix.starts_with("blob.")) suffix.erase(0, 5);
  return {{"accountname", settings.text(kNameVariable).value_or("")},
          {"accountkey", settings.text(kKeyVariable).value_or("")},
          {"sharedaccesssignature", settings.text(kSasVariable).value_or("")},
          {"endpointsuffix", suffix}};
}

}  // namespace

Result<AzureAccount> read_azure_account(const Settings& settings) {
  const auto text = settings.text(kConnectionString);
  Fields fields = text ? from_connection_string(*text) : from_variables(settings);
  AzureAccount account;
  account.name = fields["accountname"];
  if (!text && account.name.empty()) return account;
  std::string& endpoint = fields["blobendpoint"];
  if (endpoint.empty() && !account.name.empty()) {
    const auto field = [&](const char* name, const char* standard) {
      return fields[name].empty() ? standard : fields[name];
    };
    endpoint = field("defaultendpointsprotocol", "https") + "://" + account.name + ".blob." +
               field("endpointsuffix", kStandardSuffix);
  }
  const Result<Url> url = parse_url(endpoint);
  if (!url.ok() || (!text && !url->path.empty())) {
    return Status::error(Code::kInvalid, std::string(text ? kConnectionString : kNameVariable) +
                                             " makes no usable address of an account")
        .with_hint("Copy it from 'Access keys' or 'Shared access signature' of the account");
  }
  account.endpoint = *parse_endpoint(endpoint);
  if (account.name.empty()) account.name = url->host.substr(0, url->host.find('.'));
  if (const std::string& encoded = fields["accountkey"]; !encoded.empty()) {
    account.origin = text ? kConnectionString : kKeyVariable;
    account.key = base64_decode(trim(encoded)).value_or("");
    if (account.key.empty()) {
      return Status::error(Code::kInvalid,
                           "the account key in " + account.origin + " is not base64");
    }
  } else {
    account.origin = text ? kConnectionString : kSasVariable;
    account.sas_token = trim(fields["sharedaccesssignature"]);
    if (account.sas_token.starts_with('?')) account.sas_token.erase(0, 1);
  }
  return account;
}

}  // namespace streamer::http

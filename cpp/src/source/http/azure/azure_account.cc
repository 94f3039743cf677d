#include "source/http/azure/azure_account.h"

#include <algorithm>
#include <map>

#include "source/http/encoding.h"
#include "source/http/url.h"

namespace streamer::http {
namespace {

constexpr const char* kConnectionString = "AZURE_STORAGE_CONNECTION_STRING";
constexpr const char* kStandardSuffix = "core.windows.net";
// What "UseDevelopmentStorage=true" stands for: the emulator's published account and key.
constexpr const char* kEmulatorAccount = "devstoreaccount1";
constexpr const char* kEmulatorKey =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

std::map<std::string, std::string> parse_connection_string(std::string_view text) {
  std::map<std::string, std::string> fields;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(';'), text.size());
    const std::string_view field = trim(text.substr(0, end));
    const std::size_t equals = field.find('=');
    if (equals != std::string_view::npos) {
      fields[lower(field.substr(0, equals))] = field.substr(equals + 1);
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return fields;
}

Status set_key(AzureAccount* account, const std::string& text, const char* variable) {
  const auto key = base64_decode(trim(text));
  if (!key || key->empty()) {
    return Status::error(Code::kInvalid,
                         std::string("the account key in ") + variable + " is not base64");
  }
  account->key = *key;
  account->origin = variable;
  return {};
}

void set_sas(AzureAccount* account, std::string_view text, const char* variable) {
  text = trim(text);
  if (text.starts_with('?')) text.remove_prefix(1);
  account->sas_token = text;
  account->origin = variable;
}

Result<AzureAccount> from_connection_string(const std::string& text) {
  std::map<std::string, std::string> fields = parse_connection_string(text);
  if (lower(fields["usedevelopmentstorage"]) == "true") {
    fields.try_emplace("accountname", kEmulatorAccount);
    fields.try_emplace("accountkey", kEmulatorKey);
    fields.try_emplace("blobendpoint", std::string("http://127.0.0.1:10000/") + kEmulatorAccount);
  }
  AzureAccount account;
  account.name = fields["accountname"];
  account.suffix = fields["endpointsuffix"];
  if (account.suffix.empty()) account.suffix = kStandardSuffix;
  std::string endpoint = fields["blobendpoint"];
  if (endpoint.empty() && !account.name.empty()) {
    std::string scheme = fields["defaultendpointsprotocol"];
    if (scheme.empty()) scheme = "https";
    endpoint = scheme + "://" + account.name + ".blob." + account.suffix;
  }
  Result<Url> url = parse_url(endpoint);
  if (!url.ok()) {
    return Status::error(Code::kInvalid, std::string(kConnectionString) +
                                             " names neither an account nor a BlobEndpoint")
        .with_hint("Copy it from 'Access keys' or 'Shared access signature' of the account");
  }
  account.endpoint = url->origin() + url->path;
  while (account.endpoint.ends_with('/')) account.endpoint.pop_back();
  if (account.name.empty()) account.name = url->host.substr(0, url->host.find('.'));
  if (!fields["accountkey"].empty()) {
    if (Status status = set_key(&account, fields["accountkey"], kConnectionString); !status.ok()) {
      return status;
    }
  } else if (!fields["sharedaccesssignature"].empty()) {
    set_sas(&account, fields["sharedaccesssignature"], kConnectionString);
  }
  return account;
}

}  // namespace

Result<AzureAccount> read_azure_account(const Settings& settings) {
  if (const auto text = settings.text(kConnectionString)) return from_connection_string(*text);
  AzureAccount account;
  account.name = settings.text("AZURE_STORAGE_ACCOUNT_NAME").value_or("");
  account.suffix = settings.text("AZURE_STORAGE_ENDPOINT_SUFFIX").value_or(kStandardSuffix);
  if (account.name.empty()) return account;
  account.endpoint = "https://" + account.name + ".blob." + account.suffix;
  if (Result<Url> url = parse_url(account.endpoint); !url.ok() || !url->path.empty()) {
    return Status::error(Code::kInvalid,
                         "AZURE_STORAGE_ACCOUNT_NAME and _ENDPOINT_SUFFIX make no "
                         "usable host name");
  }
  if (const auto key = settings.text("AZURE_STORAGE_ACCOUNT_KEY")) {
    if (Status s = set_key(&account, *key, "AZURE_STORAGE_ACCOUNT_KEY"); !s.ok()) return s;
  } else if (const auto token = settings.text("AZURE_STORAGE_SAS_TOKEN")) {
    set_sas(&account, *token, "AZURE_STORAGE_SAS_TOKEN");
  }
  return account;
}

}  // namespace streamer::http

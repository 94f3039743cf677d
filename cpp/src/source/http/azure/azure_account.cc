#include "source/http/azure/azure_account.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "base/clock.h"
#include "base/text.h"
#include "source/http/auth/oauth.h"
#include "source/http/client/retry.h"
#include "source/http/factory.h"
#include "text/encoding.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr int kTriesOfMissing = 3;
constexpr std::chrono::seconds kUpdate{70};  // that the instance metadata service may take

constexpr const char* kConnectionString = "AZURE_STORAGE_CONNECTION_STRING";
constexpr const char* kNameVariable = "AZURE_STORAGE_ACCOUNT_NAME";
constexpr const char* kKeyVariable = "AZURE_STORAGE_ACCOUNT_KEY";
constexpr const char* kSasVariable = "AZURE_STORAGE_SAS_TOKEN";
constexpr const char* kSuffixVariable = "AZURE_STORAGE_ENDPOINT_SUFFIX";
// The meaning of "UseDevelopmentStorage=true": the emulator's published account and key.
constexpr const char* kEmulatorAccount = "devstoreaccount1";
constexpr const char* kEmulatorKey =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
constexpr const char* kScope = "https://storage.azure.com/.default";
constexpr const char* kResource = "https://storage.azure.com/";

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

std::string suffix_of(const Settings& settings) {
  // Some write it with "blob.", unlike in connection strings.
  std::string suffix = lower(settings.text(kSuffixVariable).value_or(""));
  if (suffix.starts_with("blob.")) suffix.erase(0, 5);
  return suffix;
}

// True if `account` can stand before ".blob." in a host name.
bool fits_host(const std::string& account) {
  return std::all_of(account.begin(), account.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
  });
}

Fields from_variables(const Settings& settings) {
  const std::string suffix = suffix_of(settings);
  return {{"accountname", settings.text(kNameVariable).value_or("")},
          {"accountkey", settings.text(kKeyVariable).value_or("")},
          {"sharedaccesssignature", settings.text(kSasVariable).value_or("")},
          {"endpointsuffix", suffix}};
}

Result<std::string> token_service(const Settings& settings, const std::string& tenant) {
  Result<Url> url = parse_url(settings.text_or_default("AZURE_AUTHORITY_HOST"), "https");
  if (!url.ok()) return url.status();
  if (url->scheme != "https") {
    return Status::error(Code::kInvalid, "AZURE_AUTHORITY_HOST must be an https URL");
  }
  return url->origin() + "/" + percent_encode(tenant) + "/oauth2/v2.0/token";
}

// App Service and similar services name an endpoint. Virtual machines and AKS have one at a fixed
// address.
Result<Credentials> from_managed_identity(const Settings& settings, Connection& connection) {
  const std::string client = settings.text("AZURE_CLIENT_ID").value_or("");
  std::string query = "&resource=" + percent_encode(kResource);
  std::string from = "managed identity";
  if (!client.empty()) {
    query += "&client_id=" + percent_encode(client);
    from += " " + client;
  }
  if (const auto endpoint = settings.text("IDENTITY_ENDPOINT")) {
    const Request request =
        metadata_request(*endpoint + "?api-version=2019-08-01" + query, "X-IDENTITY-HEADER",
                         settings.text("IDENTITY_HEADER").value_or(""));
    return fetch_token(request, from + " of IDENTITY_ENDPOINT", connection);
  }
  constexpr const char* kHost = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
  const std::string host = settings.text_or_default(kHost);
  const Request request = metadata_request(
      host + "/metadata/identity/oauth2/token?api-version=2018-02-01" + query, "Metadata", "true");
  const Clock::time_point start = Clock::now();
  Backoff backoff(/*max_attempts=*/0);
  for (;;) {
    Result<Credentials> token =
        fetch_token(request, from + " of the instance metadata service", connection,
                    settings.text(kHost) ? Persistence::kService : Persistence::kProbe);
    const int status = token.ok() ? 0 : token.status().detail().http_status;
    // The service is being updated. Those of other clouds have no such path.
    const bool again = (status == 404 && backoff.another(kTriesOfMissing)) ||
                       (status == 410 && Clock::now() - start < kUpdate && backoff.another());
    if (!again || !connection.transport().sleep(backoff.pause(std::chrono::milliseconds(0)))) {
      return token;
    }
  }
}

}  // namespace

bool AzureAccount::owns(const Url& url) const {
  const Result<Url> own = parse_url(endpoint);
  return own.ok() && may_receive(Secret::kAzureAccount, url, {*own, domain});
}

bool AzureAccount::is_azure(const Url& url) const {
  const Result<Url> own = parse_url(endpoint);
  OwnHosts hosts;
  hosts.azure_domain = domain;
  if (own.ok()) hosts.endpoint = *own;
  return may_receive(Secret::kAzureIdentity, url, hosts);
}

std::optional<Url> azure_host_of(const std::string& path) {
  constexpr std::string_view kScheme = "https://";
  if (lower(path.substr(0, kScheme.size())) != kScheme) return std::nullopt;
  const std::string origin = path.substr(0, path.find('/', kScheme.size()));
  const Result<Url> url = parse_url(origin);
  if (!url.ok() || origin.find_first_of("?#") != std::string::npos) return std::nullopt;
  return *url;
}

Result<AzureAccount> read_azure_account(const Settings& settings) {
  const auto text = settings.text(kConnectionString);
  Fields fields = text ? from_connection_string(*text) : from_variables(settings);
  AzureAccount account;
  account.name = fields["accountname"];
  if (const std::string suffix = suffix_of(settings); !suffix.empty()) {
    account.domain = "blob." + suffix;
  }
  if (!text && account.name.empty()) return account;
  std::string& endpoint = fields["blobendpoint"];
  if (endpoint.empty() && !account.name.empty() && fits_host(account.name)) {
    const auto field = [&](const char* name, const char* standard) {
      return fields[name].empty() ? standard : fields[name];
    };
    endpoint = field("defaultendpointsprotocol", "https") + "://" + account.name + ".blob." +
               field("endpointsuffix", find_setting(kSuffixVariable)->default_value.text);
  }
  const Result<Url> url = parse_url(endpoint);
  if (!url.ok() || (!text && !url->path.empty())) {
    return Status::error(Code::kInvalid, std::string(text ? kConnectionString : kNameVariable) +
                                             " makes no usable URL of an account")
        .with_hint("Copy it from 'Access keys' or 'Shared access signature' of the account");
  }
  account.endpoint = *parse_endpoint(endpoint);
  account.endpoint_from = text ? kConnectionString : kNameVariable;
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

Result<Credentials> find_azure_credentials(const Settings& settings, Connection& connection) {
  const auto tenant = settings.text("AZURE_TENANT_ID");
  const auto client = settings.text("AZURE_CLIENT_ID");
  const auto secret = settings.text("AZURE_CLIENT_SECRET");
  const auto file = settings.text("AZURE_FEDERATED_TOKEN_FILE");
  if (tenant && client && (secret || file)) {
    Result<std::string> service = token_service(settings, *tenant);
    if (!service.ok()) return service.status();
    Client who{*client, secret.value_or(""), ""};
    std::string from = "application " + *client + " of ";
    from += secret ? "AZURE_CLIENT_ID and AZURE_CLIENT_SECRET" : "AZURE_FEDERATED_TOKEN_FILE";
    if (!secret) {
      Result<std::string> assertion = read_credential_file(*file, "AZURE_FEDERATED_TOKEN_FILE");
      if (!assertion.ok()) return assertion.status();
      who.assertion = trim(*assertion);
    }
    return token_from_client(*service, who, kScope, from, connection);
  }
  Result<Credentials> found = from_managed_identity(settings, connection);
  if (found.ok() || found.status().code() == Code::kCancelled) return found;
  return Status::error(Code::kCredentials,
                       "no Azure credentials found; looked at AZURE_STORAGE_CONNECTION_STRING, "
                       "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_SECRET, "
                       "AZURE_FEDERATED_TOKEN_FILE, managed identity (" +
                           found.status().detail().message + ")")
      .with_hint(
          "Set one of them; for 'az login' and other ways install "
          "runai-model-streamer[azure]; for a public container set "
          "RUNAI_STREAMER_AZURE_USE_ANONYMOUS_CREDENTIALS=1");
}

}  // namespace streamer::http

namespace streamer {

bool is_azure_path(const std::string& path, const Settings& settings) {
  const auto host = http::azure_host_of(path);
  if (!host || path.find('?') != std::string::npos) return false;
  const Result<http::AzureAccount> read = http::read_azure_account(settings);
  http::AzureAccount account = read.ok() ? *read : http::AzureAccount();
  // A host of several accounts, such as the emulator's, is not an account.
  const auto endpoint = http::parse_url(account.endpoint);
  if (endpoint.ok() && !endpoint->path.empty()) account.endpoint.clear();
  return account.is_azure(*host);
}

bool azure_settings_sign(const std::string& container, const Settings& settings) {
  const Result<http::AzureAccount> account = http::read_azure_account(settings);
  if (!account.ok() || (account->key.empty() && account->sas_token.empty())) return false;
  if (container.find('/') == std::string::npos) return true;
  const auto host = http::azure_host_of("https://" + container);
  return host && account->owns(*host);
}

}  // namespace streamer

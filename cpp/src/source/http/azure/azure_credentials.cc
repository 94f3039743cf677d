#include "source/http/azure/azure_credentials.h"

#include "base/text.h"
#include "source/http/encoding.h"
#include "source/http/oauth.h"
#include "source/http/url.h"

namespace streamer::http {
namespace {

constexpr const char* kScope = "https://storage.azure.com/.default";
constexpr const char* kResource = "https://storage.azure.com/";
constexpr const char* kAuthority = "https://login.microsoftonline.com";

Result<std::string> token_service(const Settings& settings, const std::string& tenant) {
  Result<Url> url = parse_url(settings.text("AZURE_AUTHORITY_HOST").value_or(kAuthority), "https");
  if (!url.ok()) return url.status();
  if (url->scheme != "https") {
    return Status::error(Code::kInvalid, "AZURE_AUTHORITY_HOST must be an https address");
  }
  return url->origin() + "/" + percent_encode(tenant) + "/oauth2/v2.0/token";
}

// App Service and its kin name an endpoint; virtual machines and AKS have one at a fixed address.
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
  const std::string host =
      settings.text("AZURE_POD_IDENTITY_AUTHORITY_HOST").value_or("http://169.254.169.254");
  const Request request = metadata_request(
      host + "/metadata/identity/oauth2/token?api-version=2018-02-01" + query, "Metadata", "true");
  return fetch_token(request, from + " of the instance metadata service", connection);
}

}  // namespace

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

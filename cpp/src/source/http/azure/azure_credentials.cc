#include "source/http/azure/azure_credentials.h"

#include "source/http/encoding.h"
#include "source/http/oauth.h"
#include "source/http/url.h"

namespace streamer::http {
namespace {

constexpr const char* kScope = "https://storage.azure.com/.default";
constexpr const char* kResource = "https://storage.azure.com/";
constexpr const char* kAuthority = "https://login.microsoftonline.com";
constexpr int kMetadataTimeoutMs = 3000;

Result<std::string> token_service(const Settings& settings, const std::string& tenant) {
  Result<Url> url = parse_url(settings.text("AZURE_AUTHORITY_HOST").value_or(kAuthority), "https");
  if (!url.ok()) return url.status();
  if (url->scheme != "https") {
    return Status::error(Code::kInvalid, "AZURE_AUTHORITY_HOST must be an https address");
  }
  return url->origin() + "/" + percent_encode(tenant) + "/oauth2/v2.0/token";
}

Result<Credentials> from_client_secret(const Settings& settings, const std::string& tenant,
                                       const std::string& client, const std::string& secret,
                                       Connection& connection) {
  Result<std::string> service = token_service(settings, tenant);
  if (!service.ok()) return service.status();
  const std::string form = form_encode({{"grant_type", "client_credentials"},
                                        {"client_id", client},
                                        {"client_secret", secret},
                                        {"scope", kScope}});
  return fetch_token(token_request(*service, form),
                     "application " + client + " of AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
                     connection);
}

Result<Credentials> from_federated_token(const Settings& settings, const std::string& tenant,
                                         const std::string& client, const std::string& file,
                                         Connection& connection) {
  Result<std::string> service = token_service(settings, tenant);
  if (!service.ok()) return service.status();
  Result<std::string> assertion = read_credential_file(file, "AZURE_FEDERATED_TOKEN_FILE");
  if (!assertion.ok()) return assertion.status();
  const std::string form = form_encode(
      {{"grant_type", "client_credentials"},
       {"client_id", client},
       {"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
       {"client_assertion", trim(*assertion)},
       {"scope", kScope}});
  return fetch_token(token_request(*service, form),
                     "application " + client + " of AZURE_FEDERATED_TOKEN_FILE", connection);
}

// App Service and its kin name an endpoint; virtual machines and AKS have one at a fixed address.
Result<Credentials> from_managed_identity(const Settings& settings, Connection& connection) {
  const std::string client = settings.text("AZURE_CLIENT_ID").value_or("");
  Request request{.url = {}, .proxy = false};
  request.timeout_ms = request.connect_timeout_ms = kMetadataTimeoutMs;
  std::string from = "managed identity";
  if (!client.empty()) from += " " + client;
  if (const auto endpoint = settings.text("IDENTITY_ENDPOINT")) {
    request.url = *endpoint + "?api-version=2019-08-01";
    request.set("X-IDENTITY-HEADER", settings.text("IDENTITY_HEADER").value_or(""));
    from += " of IDENTITY_ENDPOINT";
  } else {
    request.url =
        settings.text("AZURE_POD_IDENTITY_AUTHORITY_HOST").value_or("http://169.254.169.254") +
        "/metadata/identity/oauth2/token?api-version=2018-02-01";
    request.set("Metadata", "true");
    from += " of the instance metadata service";
  }
  request.url += "&resource=" + percent_encode(kResource);
  if (!client.empty()) request.url += "&client_id=" + percent_encode(client);
  return fetch_token(request, from, connection);
}

}  // namespace

Result<Credentials> find_azure_credentials(const Settings& settings, Connection& connection) {
  const auto tenant = settings.text("AZURE_TENANT_ID");
  const auto client = settings.text("AZURE_CLIENT_ID");
  if (tenant && client) {
    if (const auto secret = settings.text("AZURE_CLIENT_SECRET")) {
      return from_client_secret(settings, *tenant, *client, *secret, connection);
    }
    if (const auto file = settings.text("AZURE_FEDERATED_TOKEN_FILE")) {
      return from_federated_token(settings, *tenant, *client, *file, connection);
    }
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

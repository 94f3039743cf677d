#include "source/http/gcs/gcs_credentials.h"

#include <unistd.h>

#include "source/http/auth/oauth.h"
#include "text/json.h"

namespace streamer::http {
namespace {

constexpr const char* kScope = "https://www.googleapis.com/auth/devstorage.read_only";
constexpr const char* kTokenService = "https://oauth2.googleapis.com/token";

std::string or_else(std::string text, const char* standard) {
  return text.empty() ? standard : std::move(text);
}

Result<Credentials> from_service_account(const Json& json, const std::string& from,
                                         Connection& connection) {
  const std::string email = json.string("client_email");
  return token_from_jwt(or_else(json.string("token_uri"), kTokenService), email,
                        {json.string("private_key"), json.string("private_key_id")}, kScope,
                        "service account " + email + " of " + from, connection);
}

Result<Credentials> from_authorized_user(const Json& json, const std::string& from,
                                         Connection& connection) {
  const std::string account = json.string("account");
  return token_from_refresh(
      or_else(json.string("token_uri"), kTokenService),
      {json.string("client_id"), json.string("client_secret"), ""}, json.string("refresh_token"),
      "user " + (account.empty() ? "" : account + " ") + "of " + from, connection);
}

Result<Credentials> from_file(const std::string& path, const std::string& from,
                              Connection& connection) {
  Result<std::string> text = read_credential_file(path, "the credentials of " + from);
  if (!text.ok()) return text.status();
  const std::optional<Json> json = parse_json(*text);
  const std::string type = json ? json->string("type") : "";
  if (type == "service_account") return from_service_account(*json, from, connection);
  if (type == "authorized_user") return from_authorized_user(*json, from, connection);
  if (type.empty()) {
    return Status::error(Code::kCredentials, "the file of " + from + " holds no Google credentials")
        .with_hint("It must be the JSON of a service account or of gcloud");
  }
  return Status::error(Code::kPackage,
                       "credentials of type " + type + " (" + from + ") need google-auth")
      .with_hint("pip install runai-model-streamer[gcs]");
}

Result<Credentials> from_metadata_server(const Settings& settings, Connection& connection) {
  const std::string host = settings.text_or_default("GCE_METADATA_HOST");
  const std::string url =
      "http://" + host + "/computeMetadata/v1/instance/service-accounts/default/token";
  return fetch_token(metadata_request(url, "Metadata-Flavor", "Google"),
                     "default service account of the metadata server", connection);
}

}  // namespace

Result<Credentials> find_google_credentials(const Settings& settings, Connection& connection) {
  for (const char* name :
       {"RUNAI_STREAMER_GCS_CREDENTIAL_FILE", "GOOGLE_APPLICATION_CREDENTIALS"}) {
    if (const auto path = settings.text(name)) return from_file(*path, name, connection);
  }
  const std::string gcloud =
      settings.path("CLOUDSDK_CONFIG") + "/application_default_credentials.json";
  if (::access(gcloud.c_str(), F_OK) == 0) return from_file(gcloud, gcloud, connection);

  Result<Credentials> found = from_metadata_server(settings, connection);
  if (found.ok() || found.status().code() == Code::kCancelled) return found;
  return Status::error(Code::kCredentials,
                       "no Google credentials found; looked at RUNAI_STREAMER_GCS_CREDENTIAL_FILE, "
                       "GOOGLE_APPLICATION_CREDENTIALS, " +
                           gcloud + ", the metadata server (" + found.status().detail().message +
                           ")")
      .with_hint(
          "Name a credentials file, run 'gcloud auth application-default login', or set "
          "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS=1 for a public bucket");
}

}  // namespace streamer::http

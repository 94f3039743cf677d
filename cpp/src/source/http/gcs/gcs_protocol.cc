// Google Cloud Storage: its JSON API with bearer tokens.
#include <algorithm>
#include <optional>

#include "base/text.h"
#include "source/http/auth/oauth.h"
#include "source/http/client/origin.h"
#include "source/http/gcs/gcs_credentials.h"
#include "source/http/protocol.h"
#include "text/encoding.h"
#include "text/json.h"
#include "text/url.h"
#include "text/xml.h"

namespace streamer::http {
namespace {

bool is_generation(std::string_view version) {
  return !version.empty() && version.find_first_not_of("0123456789") == std::string_view::npos;
}

class Gcs : public SingleIdentity {
 public:
  Gcs(const ProtocolContext& context, Endpoint endpoint, bool anonymous)
      : SingleIdentity(SourceKind::kGcs, context.provider, anonymous,
                       [settings = context.settings](const std::string&, Connection& connection) {
                         return find_google_credentials(settings, connection);
                       }),
        named_(std::move(endpoint)),
        endpoint_(named_.url),
        billed_project_(context.settings.text("GOOGLE_CLOUD_QUOTA_PROJECT").value_or("")) {}

  Result<Location> locate(const std::string& path, bool directory) const override {
    return locate_in_container(path, after_scheme(path), directory, "gs://BUCKET/OBJECT");
  }

  Endpoint endpoint(const Location&, const Credentials*) const override { return named_; }

  Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                            const Version& version, const CredentialsRef& credentials) override {
    Request request{.url = endpoint_ + "/download/storage/v1/b/" +
                           percent_encode(location.container) + "/o/" +
                           percent_encode(location.key) + "?alt=media"};
    if (version.by_id) {
      request.url += "&generation=" + percent_encode(version.id);
    } else if (is_generation(version.validator)) {
      request.url += "&ifGenerationMatch=" + version.validator;
    } else if (!version.validator.empty()) {
      request.set("If-Match", version.validator);
    }
    if (range) request.set("Range", range->header());
    if (Status status = authorize(&request, credentials); !status.ok()) return status;
    return request;
  }

  Result<Request> make_list(const Location& directory, bool recursive, const std::string& next,
                            const CredentialsRef& credentials) override {
    Request request{.url =
                        endpoint_ + "/storage/v1/b/" + percent_encode(directory.container) +
                        "/o?fields=" + percent_encode("nextPageToken,items(name,size,generation)") +
                        "&maxResults=1000"};
    if (!directory.key.empty()) request.url += "&prefix=" + percent_encode(directory.key);
    if (!recursive) request.url += "&delimiter=%2F";
    if (!next.empty()) request.url += "&pageToken=" + percent_encode(next);
    if (Status status = authorize(&request, credentials); !status.ok()) return status;
    return request;
  }

  Result<ListPage> read_list(const Location&, bool, const std::string&,
                             const Response& response) override {
    const std::optional<Json> json = parse_json(response.body);
    const Json none;
    const Json& items = json ? (*json)["items"] : none;
    // An empty list has no items.
    const bool list = items.type == Json::Type::kArray || items.type == Json::Type::kNull;
    if (!json || json->type != Json::Type::kObject || !list) {
      return Status::error(Code::kIo, "the response is not a list of objects");
    }
    ListPage page;
    page.next = json->string("nextPageToken");
    for (const Json& item : items.items) {
      add_listed(&page, item.string("name"), item.string("size"), item.string("generation"));
    }
    return page;
  }

  Version version_of(const Response& response) const override {
    const std::string_view generation = response.header("x-goog-generation");
    if (is_generation(generation)) return {std::string(generation), std::string(generation), false};
    const std::string_view etag = response.header("etag");
    return {etag.starts_with("W/") ? "" : std::string(etag), "", false};
  }

  // "crc32c=BASE64,md5=BASE64", in one header or in several, of the whole object.
  std::optional<Checksum> checksum_of(const Response& response) const override {
    for (const Header& header : response.headers) {
      if (header.name != "x-goog-hash") continue;
      const std::size_t at = header.value.find("crc32c=");
      if (at == std::string::npos) continue;
      const auto bytes = base64_decode(trim(
          std::string_view(header.value)
              .substr(at + 7, std::min(header.value.find(',', at), header.value.size()) - at - 7)));
      if (!bytes || bytes->size() != 4) continue;
      return Checksum{Checksum::Kind::kCrc32c, big_endian(*bytes)};
    }
    return std::nullopt;
  }

  ServerError read_error(const Location& location, const Response& response) override;

 private:
  Status authorize(Request* request, const CredentialsRef& credentials) const {
    const bool own = same_origin(request->url, endpoint_);
    if (credentials && (!own || !set_bearer(request, *credentials))) {
      return Status::error(Code::kCredentials, "the credentials for gs:// have no access token")
          .with_identity(credentials->identity);
    }
    if (!billed_project_.empty()) request->set("x-goog-user-project", billed_project_);
    return {};
  }

  const Endpoint named_;
  const std::string endpoint_;
  const std::string billed_project_;
};

ServerError Gcs::read_error(const Location& location, const Response& response) {
  ServerError error = error_by_status(response.status);
  error.request_id = response.header("x-guploader-uploadid");
  if (const auto json = parse_json(response.body)) {
    const Json& details = (*json)["error"];
    error.server_message = details.string("message");
    if (!details["errors"].items.empty()) {
      error.server_code = details["errors"].items.front().string("reason");
    }
  } else if (const auto xml = parse_xml(response.body)) {
    error.server_code = xml->child_text("Code");
    error.server_message = xml->child_text("Message");
  } else if (response.body.size() < 512 && !response.body.starts_with('<')) {
    error.server_message = trim(response.body);  // the media endpoint responds with plain text
  }

  switch (response.status) {
    case 401:
      error.decision = anonymous_ ? RetryDecision::kFail : RetryDecision::kRefresh;
      error.code = anonymous_ ? Code::kPermission : Code::kCredentials;
      error.hint = anonymous_ ? "Requests are anonymous; the bucket is not public"
                              : "The access token has expired or is not Google's";
      break;
    case 403:
      if (error.server_code == "rateLimitExceeded" ||
          error.server_code == "userRateLimitExceeded") {
        error.decision = RetryDecision::kRetry;
        error.code = Code::kThrottled;
      } else if (anonymous_) {
        error.hint = "Requests are anonymous; the bucket is not public";
      } else {
        error.hint =
            "The identity needs storage.objects.get (and storage.objects.list for lists) "
            "in bucket " +
            location.container;
      }
      break;
    case 400:
      if (error.server_code == "required" ||
          error.server_message.find("requester pays") != std::string::npos) {
        error.hint = "A bucket whose requester pays needs GOOGLE_CLOUD_QUOTA_PROJECT";
      }
      break;
    case 404: error.hint = "Check the bucket's name and the object's, whose case matters"; break;
    default: break;
  }
  return error;
}

// True if gs:// means the S3 protocol with HMAC keys.
Result<bool> interoperability(const Settings& settings) {
  const auto wanted = settings.boolean("RUNAI_STREAMER_GCS_INTEROPERABILITY");
  if (!wanted.ok()) return wanted.status();
  if (*wanted) return **wanted;
  for (const char* name :
       {"RUNAI_STREAMER_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}) {
    const auto endpoint = settings.text(name);
    if (!endpoint) continue;
    const Result<Url> url = parse_url(*endpoint, "https");
    return url.ok() && ("." + url->host).ends_with(".storage.googleapis.com");
  }
  return false;
}

Result<std::unique_ptr<Protocol>> make_native(const ProtocolContext& context) {
  const Settings& settings = context.settings;
  const Result<bool> anonymous = settings.enabled("RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS");
  if (!anonymous.ok()) return anonymous.status();
  // Emulators get no credentials: they need none, and must not get those of a real identity.
  bool emulator = true;
  std::optional<std::string> address;
  std::string from = "of Google Cloud";
  for (const char* name : {"CLOUD_STORAGE_EMULATOR_ENDPOINT", "STORAGE_EMULATOR_HOST",
                           "RUNAI_STREAMER_GCS_ENDPOINT"}) {
    address = settings.text(name);
    if (!address) continue;
    from = name;
    emulator = name != std::string_view("RUNAI_STREAMER_GCS_ENDPOINT");
    break;
  }
  if (!address) {
    emulator = false;
    address = settings.text_or_default("RUNAI_STREAMER_GCS_ENDPOINT");
  }
  Result<std::string> endpoint = parse_endpoint(*address, emulator ? "http" : "https");
  if (!endpoint.ok()) return endpoint.status();
  return std::unique_ptr<Protocol>(std::make_unique<Gcs>(
      context, Endpoint{.url = *endpoint, .from = from}, emulator || *anonymous));
}

}  // namespace

Result<std::unique_ptr<Protocol>> make_gcs(const ProtocolContext& context) {
  const Result<bool> by_s3 = interoperability(context.settings);
  if (!by_s3.ok()) return by_s3.status();
  return *by_s3 ? make_s3(context) : make_native(context);
}

}  // namespace streamer::http

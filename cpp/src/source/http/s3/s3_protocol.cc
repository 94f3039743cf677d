// S3 and compatible stores.

#include <algorithm>
#include <atomic>
#include <map>

#include "base/mutex.h"
#include "base/text.h"
#include "source/http/auth/server_clock.h"
#include "source/http/client/origin.h"
#include "source/http/protocol.h"
#include "source/http/s3/addressing.h"
#include "source/http/s3/aws_config.h"
#include "source/http/s3/aws_credentials.h"
#include "source/http/s3/s3_errors.h"
#include "source/http/s3/sigv4.h"
#include "text/encoding.h"
#include "text/url.h"
#include "text/xml.h"

namespace streamer::http {
namespace {

constexpr std::string_view kVersionQuery = "?versionId=";
constexpr const char* kStandardRegion = "us-east-1";

Credentials anonymous() {
  Credentials anonymous;
  anonymous.identity = "anonymous (RUNAI_STREAMER_S3_UNSIGNED)";
  return anonymous;
}

bool refused_for_its_date(const ServerError& error) {
  return error.server_code == "RequestTimeTooSkewed" || error.server_code == "RequestExpired";
}

// The ARN of an access point has a slash: its name is the first part of the text behind the
// container.
Status take_access_point(Location* location, bool directory) {
  if (location->container.ends_with(":accesspoint")) {
    const std::size_t end = std::min(location->key.find('/'), location->key.size());
    location->container += "/" + location->key.substr(0, end);
    location->key.erase(0, std::min(end + 1, location->key.size()));
  }
  const Result<AccessPoint> point = parse_access_point(location->container);
  if (!point.ok()) return point.status();
  if (location->key.empty() && !directory) {
    return Status::error(Code::kInvalid, "the path names no object");
  }
  return {};
}

class S3Protocol : public Protocol {
 public:
  static Result<std::unique_ptr<Protocol>> make(const ProtocolContext& context);

  Result<Location> locate(const std::string& path, bool directory) const override;
  Endpoint endpoint(const Location& location, const Credentials* who) const override;
  Result<CredentialsRef> credentials(const Location& location, Connection& connection) override;
  void refused(const Location& location, const CredentialsRef& used) override;
  Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                            const Version& version, const CredentialsRef& who) override;
  Version version_of(const Response& response) const override {
    return {std::string(response.header("etag")), std::string(response.header("x-amz-version-id")),
            false};
  }
  std::optional<Checksum> checksum_of(const Response& response) const override;
  Result<Request> make_checksum_request(const Location& location, const Version& version,
                                        const CredentialsRef& who) override;
  bool has_checksum_request() const override { return true; }
  Result<Request> make_list(const Location& directory, bool recursive, const std::string& next,
                            const CredentialsRef& who) override;
  Result<ListPage> read_list(const Location& directory, bool recursive, const std::string& next,
                             const Response& response) override;
  ServerError read_error(const Location& location, const Response& response) override;
  bool elsewhere(const Location& location, const Request& request, const Response* response,
                 bool settled) override;
  std::string trust_file() const override { return profile_.value("ca_bundle"); }

 private:
  S3Protocol(const Settings& settings, const CredentialsProvider& provider, AwsProfile profile,
             S3Addressing addressing)
      : settings_(settings),
        profile_(std::move(profile)),
        addressing_(std::move(addressing)),
        base_(
            SourceKind::kS3, provider,
            [this](const std::string&, Connection& connection) -> Result<Credentials> {
              if (unsigned_) return anonymous();
              // Tools that renew credentials write them to the same files.
              return find_aws_credentials(settings_, read_aws_profile(settings_), standard_region(),
                                          connection);
            },
            kAccessKey),
        sessions_(SourceKind::kS3, {}, [this](const std::string& bucket, Connection& connection) {
          return create_session(bucket, connection);
        }) {}

  std::string standard_region() const;
  std::string region_of(const std::string& bucket, const Credentials* who) const;
  Result<Url> url_of(const std::string& bucket, const std::string& key,
                     const Credentials* who) const;
  // Not signed, so that headers can be added.
  Result<Request> make_object_request(const Location& location, const Version& version,
                                      const Credentials* who, Url* url) const;
  void sign(Request* request, const Url& url, const std::string& bucket, const Credentials* who,
            bool session);
  Result<Credentials> create_session(const std::string& bucket, Connection& connection);

  const Settings settings_;
  const AwsProfile profile_;
  const S3Addressing addressing_;
  bool unsigned_ = false;
  bool requester_pays_ = false;
  SigV4Signer signer_;
  CredentialsCache base_;
  CredentialsCache sessions_;  // of directory buckets
  // A host with the bucket in it does not resolve: the endpoint has no wildcard name.
  std::atomic<bool> path_style_{false};
  mutable Mutex mutex_;
  std::map<std::string, std::string> regions_
      GUARDED_BY(mutex_);  // of buckets, as servers named them
};

Result<std::unique_ptr<Protocol>> S3Protocol::make(const ProtocolContext& context) {
  AwsProfile profile = read_aws_profile(context.settings);
  Result<S3Addressing> addressing = S3Addressing::read(context.settings, profile);
  if (!addressing.ok()) return addressing.status();
  const auto no_signature = context.settings.enabled("RUNAI_STREAMER_S3_UNSIGNED");
  if (!no_signature.ok()) return no_signature.status();
  const auto payer = context.settings.enabled("RUNAI_STREAMER_S3_REQUEST_PAYER");
  if (!payer.ok()) return payer.status();
  std::unique_ptr<S3Protocol> protocol(new S3Protocol(context.settings, context.provider,
                                                      std::move(profile), std::move(*addressing)));
  protocol->unsigned_ = *no_signature;
  protocol->requester_pays_ = *payer;
  return std::unique_ptr<Protocol>(std::move(protocol));
}

Result<Location> S3Protocol::locate(const std::string& path, bool directory) const {
  Result<Location> location =
      locate_in_container(path, after_scheme(path), directory, "s3://BUCKET/KEY");
  if (!location.ok()) return location;
  if (is_arn(location->container)) {
    if (Status status = take_access_point(&*location, directory); !status.ok()) {
      return std::move(status).with_path(path);
    }
  }
  if (directory) return location;
  const std::size_t query = location->key.rfind(kVersionQuery);
  if (query != std::string::npos && query > 0) {
    location->version_id = percent_decode(location->key.substr(query + kVersionQuery.size()));
    location->key.resize(query);
  }
  return location;
}

std::string S3Protocol::standard_region() const {
  for (const char* name : {"AWS_REGION", "AWS_DEFAULT_REGION"}) {
    if (const auto region = settings_.text(name)) return *region;
  }
  const std::string region = profile_.value("region");
  return region.empty() ? kStandardRegion : region;
}

std::string S3Protocol::region_of(const std::string& bucket, const Credentials* who) const {
  if (is_arn(bucket)) {
    const Result<AccessPoint> point = parse_access_point(bucket);
    if (point.ok()) return point->region;
  }
  {
    const MutexLock lock(mutex_);
    if (const auto it = regions_.find(bucket); it != regions_.end()) return it->second;
  }
  const std::string region = who == nullptr ? std::string() : value_of(*who, kRegion);
  return region.empty() ? standard_region() : region;
}

// Credentials that the caller made may name the endpoint that they are for.
Result<Url> S3Protocol::url_of(const std::string& bucket, const std::string& key,
                               const Credentials* who) const {
  const std::string region = region_of(bucket, who);
  const std::string endpoint = who == nullptr ? std::string() : value_of(*who, kEndpoint);
  S3Addressing chosen = addressing_;
  if (path_style_) chosen.virtual_hosts = false;
  if (!endpoint.empty()) {
    Result<Url> url = parse_url(endpoint, "https");
    if (!url.ok()) return url.status();
    while (url->path.ends_with('/')) url->path.pop_back();
    chosen.endpoint = std::move(*url);
  }
  return chosen.url(bucket, key, region);
}

Endpoint S3Protocol::endpoint(const Location& location, const Credentials* who) const {
  Endpoint found;
  found.region = region_of(location.container, who);
  const std::string given = who == nullptr ? std::string() : value_of(*who, kEndpoint);
  if (!given.empty()) {
    const Result<Url> url = parse_url(given, "https");
    found.url = url.ok() ? url->origin() : given;
    found.from = "of the caller";
  } else if (addressing_.endpoint) {
    found.url = addressing_.endpoint->origin();
    found.from = addressing_.endpoint_from;
  }
  const Result<Url> url = url_of(location.container, "", who);
  if (!url.ok()) return found;
  found.host = url->authority();
  if (found.url.empty()) {
    found.url = url->origin();
    found.from = "of AWS, region " + found.region;
  }
  return found;
}

// A private endpoint seldom has a name and a certificate for each bucket. A wildcard of its
// domain may even lead to another server. Unless a setting chooses, both styles take turns until S3
// responds.
bool S3Protocol::elsewhere(const Location& location, const Request& request,
                           const Response* response, bool settled) {
  const Result<Url> url = parse_url(request.url);
  if (!url.ok() || addressing_.virtual_hosts || is_arn(location.container) ||
      ("." + url->host).ends_with("." + aws_suffix(standard_region()))) {
    return false;
  }
  if (response != nullptr && is_s3_response(*response)) return false;
  const bool virtual_host = url->host.starts_with(location.container + ".");
  if (!settled) path_style_ = virtual_host;
  return virtual_host && path_style_;
}

Result<CredentialsRef> S3Protocol::credentials(const Location& location, Connection& connection) {
  if (is_express_bucket(location.container) && !unsigned_) {
    return sessions_.get(location.container, connection);
  }
  return base_.get(location.container, connection);
}

void S3Protocol::refused(const Location& location, const CredentialsRef& used) {
  if (is_express_bucket(location.container)) {
    sessions_.refused(location.container, used);
  } else {
    base_.refused(location.container, used);
  }
}

void S3Protocol::sign(Request* request, const Url& url, const std::string& bucket,
                      const Credentials* who, bool session) {
  if (requester_pays_) request->set("x-amz-request-payer", "requester");
  if (unsigned_ || who == nullptr || !who->values.contains(kAccessKey)) return;
  SigV4Scope scope{.access_key = value_of(*who, kAccessKey),
                   .secret_key = value_of(*who, kSecretKey),
                   .token = value_of(*who, kSessionToken)};
  scope.region = region_of(bucket, who);
  if (is_express_bucket(bucket)) {
    scope.service = "s3express";
    if (session) scope.token_header = "x-amz-s3session-token";
  }
  request->signed_at = server_time(request->url);
  signer_.sign(request, url, scope, request->signed_at);
}

Result<Request> S3Protocol::make_object_request(const Location& location, const Version& version,
                                                const Credentials* who, Url* url) const {
  Result<Url> found = url_of(location.container, location.key, who);
  if (!found.ok()) return found.status();
  *url = std::move(*found);
  if (version.by_id) url->query = "versionId=" + percent_encode(version.id);
  Request request{.url = url->to_string()};
  if (!version.by_id && !version.validator.empty()) request.set("If-Match", version.validator);
  return request;
}

Result<Request> S3Protocol::make_read(const Location& location, std::optional<ByteRange> range,
                                      const Version& version, const CredentialsRef& who) {
  Url url;
  Result<Request> request = make_object_request(location, version, who.get(), &url);
  if (!request.ok()) return request;
  if (range) request->set("Range", range->header());
  sign(&*request, url, location.container, who.get(), /*session=*/true);
  return request;
}

// Responses to reads of a part never have the checksum of the whole.
Result<Request> S3Protocol::make_checksum_request(const Location& location, const Version& version,
                                                  const CredentialsRef& who) {
  Url url;
  Result<Request> request = make_object_request(location, version, who.get(), &url);
  if (!request.ok()) return request;
  request->method = "HEAD";
  request->set("x-amz-checksum-mode", "ENABLED");
  sign(&*request, url, location.container, who.get(), /*session=*/true);
  return request;
}

// The checksum of an object of parts may be one of the checksums of its parts: it then ends with
// their number.
std::optional<Checksum> S3Protocol::checksum_of(const Response& response) const {
  if (lower(response.header("x-amz-checksum-type")) == "composite") return std::nullopt;
  const std::pair<const char*, Checksum::Kind> kinds[] = {
      {"x-amz-checksum-crc64nvme", Checksum::Kind::kCrc64Nvme},
      {"x-amz-checksum-crc32c", Checksum::Kind::kCrc32c}};
  for (const auto& [name, kind] : kinds) {
    const std::string_view text = response.header(name);
    if (text.empty() || text.find('-') != std::string_view::npos) continue;
    const auto bytes = base64_decode(text);
    const std::size_t size = kind == Checksum::Kind::kCrc64Nvme ? 8 : 4;
    if (bytes && bytes->size() == size) return Checksum{kind, big_endian(*bytes)};
  }
  return std::nullopt;
}

Result<Request> S3Protocol::make_list(const Location& directory, bool recursive,
                                      const std::string& next, const CredentialsRef& who) {
  Result<Url> url = url_of(directory.container, "", who.get());
  if (!url.ok()) return url.status();
  if (!next.empty()) url->query = "continuation-token=" + percent_encode(next) + "&";
  if (!recursive) url->query += "delimiter=%2F&";
  url->query += "list-type=2&prefix=" + percent_encode(directory.key);
  Request request{.url = url->to_string()};
  sign(&request, *url, directory.container, who.get(), /*session=*/true);
  return request;
}

Result<ListPage> S3Protocol::read_list(const Location& /*directory*/, bool /*recursive*/,
                                       const std::string& /*next*/, const Response& response) {
  const auto xml = parse_xml(response.body);
  if (!xml || xml->name != "ListBucketResult") {
    return Status::error(Code::kIo, "the server's list can't be understood");
  }
  ListPage page;
  for (const XmlElement& element : xml->children) {
    if (element.name == "Contents") {
      add_listed(&page, element.child_text("Key"), element.child_text("Size"),
                 quoted_etag(element.child_text("ETag")));
    }
  }
  if (xml->child_text("IsTruncated") == "true") {
    page.next = xml->child_text("NextContinuationToken");
    if (page.next.empty()) {
      return Status::error(Code::kUnsupported, "the server can't continue its list")
          .with_hint("It must support ListObjectsV2");
    }
  }
  return page;
}

ServerError S3Protocol::read_error(const Location& location, const Response& response) {
  ServerError error = read_s3_error(response);
  const std::string region = region_in_response(response);
  const int status = response.status;
  // Servers add the region to other errors, too: an expired token has nothing to do with the
  // region.
  const bool unknown = status == 400 && error.message.empty();
  if (is_host_label(region) && (status == 301 || status == 307 || unknown)) {
    const MutexLock lock(mutex_);
    regions_[location.container] = region;
    error.decision = RetryDecision::kRetryAtOnce;
    return error;
  }
  if (refused_for_its_date(error) && learn_server_time(response))
    error.decision = RetryDecision::kRetryAtOnce;
  return error;
}

// Short-lived credentials for one directory bucket.
Result<Credentials> S3Protocol::create_session(const std::string& bucket, Connection& connection) {
  Result<CredentialsRef> who = base_.get(bucket, connection);
  if (!who.ok()) return who.status();
  Result<Url> url = url_of(bucket, "", who->get());
  if (!url.ok()) return url.status();
  url->query = "session=";
  const auto ask = [&] {
    Request request{.url = url->to_string()};
    request.set("x-amz-create-session-mode", "ReadOnly");
    sign(&request, *url, bucket, who->get(), /*session=*/false);
    return connection.fetch(request);
  };
  Result<Response> response = ask();
  if (!response.ok()) return response.status();
  if (refused_for_its_date(read_s3_error(*response)) && learn_server_time(*response)) {
    response = ask();
    if (!response.ok()) return response.status();
  }
  const auto xml = parse_xml(response->body);
  const XmlElement* element = xml ? xml->child("Credentials") : nullptr;
  if (response->status != 200 || element == nullptr) {
    const ServerError error = read_s3_error(*response);
    return Status::error(error.code == Code::kIo ? Code::kCredentials : error.code,
                         "the directory bucket gives no session")
        .with_http(response->status, error.server_code, error.server_message, error.request_id)
        .with_identity((*who)->identity)
        .with_hint(error.hint);
  }
  Result<Credentials> session =
      credentials_from_xml(*element, "a session of bucket " + bucket + " for " + (*who)->identity);
  if (!session.ok()) return session;
  for (const char* name : {kRegion, kEndpoint}) {
    if (const std::string value = value_of(**who, name); !value.empty()) {
      session->values[name] = value;
    }
  }
  return session;
}

}  // namespace

Result<std::unique_ptr<Protocol>> make_s3(const ProtocolContext& context) {
  return S3Protocol::make(context);
}

}  // namespace streamer::http

#include "source/http/s3/addressing.h"

#include "source/http/client/origin.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

// Names that can be a label of a host name: 3 to 63 of a-z 0-9 -.
bool fits_host(const std::string& bucket) {
  return bucket.size() >= 3 && bucket.size() <= 63 && bucket.front() != '-' &&
         bucket.back() != '-' &&
         bucket.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos;
}

std::string aws_suffix(const std::string& region) {
  return region.starts_with("cn-") ? "amazonaws.com.cn" : "amazonaws.com";
}

// us-east-1-az4 of name--use1-az4--x-s3.
std::string express_zone(const std::string& bucket) {
  const std::string head = bucket.substr(0, bucket.size() - 6);
  return head.substr(head.rfind("--") + 2);
}

}  // namespace

Status check_region(const std::string& region) {
  if (is_host_label(region)) return {};
  return Status::error(Code::kInvalid, "not the name of a region: '" + region + "'")
      .with_hint("Regions look like us-east-1; AWS_REGION, the profile or the caller names one");
}

bool is_express_bucket(const std::string& bucket) {
  // The zone becomes a part of the host.
  if (!bucket.ends_with("--x-s3") || !fits_host(bucket)) return false;
  const std::size_t zone = bucket.substr(0, bucket.size() - 6).rfind("--");
  return zone != std::string::npos && zone > 0 && zone + 2 < bucket.size() - 6;
}

Result<S3Addressing> S3Addressing::read(const Settings& settings, const AwsProfile& profile) {
  S3Addressing out;
  const std::string own = settings.text("RUNAI_STREAMER_S3_ENDPOINT").value_or("");
  const std::string s3 = settings.text("AWS_ENDPOINT_URL_S3").value_or("");
  const std::string all = settings.text("AWS_ENDPOINT_URL").value_or("");
  std::string endpoint;
  const char* from = "AWS_ENDPOINT_URL";
  // Callers copy AWS_ENDPOINT_URL to the first; that must not beat the one for S3.
  if (!own.empty() && (own != all || s3.empty())) {
    endpoint = own;
    from = "RUNAI_STREAMER_S3_ENDPOINT";
  } else if (!s3.empty()) {
    endpoint = s3;
    from = "AWS_ENDPOINT_URL_S3";
  } else {
    endpoint = all;
  }
  const auto ignore = settings.boolean("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
  if (!ignore.ok()) return ignore.status();
  if (endpoint.empty() && !ignore->value_or(false)) {
    endpoint = profile.value("s3.endpoint_url");
    if (endpoint.empty()) endpoint = profile.value("endpoint_url");
    from = "endpoint_url of the AWS profile";
  }
  if (!endpoint.empty()) {
    Result<Url> url = parse_url(endpoint, "https");
    if (!url.ok()) {
      return Status::error(Code::kInvalid,
                           std::string(from) + ": " + url.status().detail().message);
    }
    while (url->path.ends_with('/')) url->path.pop_back();
    out.endpoint = std::move(*url);
  }
  const auto virtual_hosts = settings.boolean("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING");
  if (!virtual_hosts.ok()) return virtual_hosts.status();
  out.virtual_hosts = *virtual_hosts;
  return out;
}

bool S3Addressing::uses_virtual_host(const std::string& bucket) const {
  if (is_express_bucket(bucket)) return !endpoint;
  if (!virtual_hosts.value_or(true) || !fits_host(bucket)) return false;
  if (!endpoint) return true;
  if (endpoint->host_is_ip() || endpoint->host == "localhost") return false;
  return virtual_hosts.has_value() || !endpoint->host_is_local();
}

Url S3Addressing::url(const std::string& bucket, const std::string& key,
                      const std::string& region) const {
  Url out;
  if (endpoint) {
    out = *endpoint;
  } else {
    out.scheme = "https";
    out.host =
        (is_express_bucket(bucket) ? "s3express-" + express_zone(bucket) : std::string("s3")) +
        "." + region + "." + aws_suffix(region);
  }
  if (uses_virtual_host(bucket)) {
    out.host = bucket + "." + out.host;
    out.path += "/" + percent_encode(key, "/");
  } else {
    out.path += "/" + percent_encode(bucket) + (key.empty() ? "" : "/" + percent_encode(key, "/"));
  }
  return out;
}

}  // namespace streamer::http

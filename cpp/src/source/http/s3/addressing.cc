#include "source/http/s3/addressing.h"

#include <algorithm>
#include <array>

#include "base/text.h"
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

struct Partition {
  const char* regions;  // the prefix of its regions' names
  const char* suffix;
};
constexpr Partition kPartitions[] = {
    {"cn-", "amazonaws.com.cn"},    {"us-iso-", "c2s.ic.gov"},      {"us-isob-", "sc2s.sgov.gov"},
    {"us-isof-", "csp.hci.ic.gov"}, {"eu-isoe-", "cloud.adc-e.uk"}, {"eusc-", "amazonaws.eu"},
};
constexpr const char* kStandardSuffix = "amazonaws.com";

bool is_china(const std::string& region) { return region.starts_with("cn-"); }

// The settings of the environment and of the profile that switch something on.
Result<bool> is_on(const Settings& settings, const char* variable, const AwsProfile& profile,
                   std::initializer_list<const char*> keys) {
  if (variable != nullptr) {
    const auto set = settings.boolean(variable);
    if (!set.ok()) return set.status();
    if (*set) return **set;
  }
  for (const char* key : keys) {
    const std::string value = lower(profile.value(key));
    if (value.empty()) continue;
    if (value == "true") return true;
    if (value == "false") return false;
    return Status::error(Code::kInvalid, std::string(key) + " of the AWS profile is '" + value +
                                             "', not true or false");
  }
  return false;
}

Status contradiction(const std::string& what) { return Status::error(Code::kInvalid, what); }

// us-east-1-az4 of name--use1-az4--x-s3.
std::string express_zone(const std::string& bucket) {
  const std::string head = bucket.substr(0, bucket.size() - 6);
  return head.substr(head.rfind("--") + 2);
}

}  // namespace

std::string aws_suffix(const std::string& region) {
  for (const Partition& partition : kPartitions) {
    if (region.starts_with(partition.regions)) return partition.suffix;
  }
  return kStandardSuffix;
}

Result<bool> uses_fips(const Settings& settings, const AwsProfile& profile) {
  return is_on(settings, "AWS_USE_FIPS_ENDPOINT", profile, {"use_fips_endpoint"});
}

bool is_arn(const std::string& bucket) { return bucket.starts_with("arn:"); }

Result<AccessPoint> parse_access_point(const std::string& arn) {
  // arn:partition:service:region:account:resource
  std::array<std::string, 6> parts;
  std::string_view rest(arn);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t end =
        i + 1 < parts.size() ? std::min(rest.find(':'), rest.size()) : rest.size();
    parts[i] = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  const auto& [prefix, partition, service, region, account, resource] = parts;
  if (service != "s3" || !resource.starts_with("accesspoint")) {
    return Status::error(Code::kUnsupported, "of the ARNs only those of S3 access points are read")
        .with_hint(
            "The alias of an access point or an Object Lambda (NAME-...-s3alias, NAME-...--ol-s3) "
            "stands in place of a bucket's name");
  }
  if (region.empty()) {
    return Status::error(Code::kUnsupported, "multi-region access points are not supported")
        .with_hint("Name the bucket, or an access point of one region");
  }
  constexpr std::string_view kResource = "accesspoint";
  std::string name = resource.substr(std::min(kResource.size() + 1, resource.size()));
  if (!is_host_label(region) || !is_host_label(name) || account.empty() ||
      account.find_first_not_of("0123456789") != std::string::npos) {
    return Status::error(Code::kInvalid, "not the ARN of an access point: '" + arn + "'")
        .with_hint("s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/KEY");
  }
  return AccessPoint{partition, region, account, std::move(name)};
}

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
  // Callers copy AWS_ENDPOINT_URL to the first, which must not override the one for S3.
  if (!own.empty() && (own != all || s3.empty())) {
    endpoint = own;
    from = "RUNAI_STREAMER_S3_ENDPOINT";
  } else if (!s3.empty()) {
    endpoint = s3;
    from = "AWS_ENDPOINT_URL_S3";
  } else {
    endpoint = all;
  }
  const auto ignore = settings.enabled("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
  if (!ignore.ok()) return ignore.status();
  if (endpoint.empty() && !*ignore) {
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
    out.endpoint_from = from;
    while (url->path.ends_with('/')) url->path.pop_back();
    out.endpoint = std::move(*url);
  }
  const auto virtual_hosts = settings.boolean("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING");
  if (!virtual_hosts.ok()) return virtual_hosts.status();
  out.virtual_hosts = *virtual_hosts;
  const std::string style = lower(profile.value("s3.addressing_style"));
  if (!out.virtual_hosts && (style == "path" || style == "virtual")) {
    out.virtual_hosts = style == "virtual";
  } else if (!style.empty() && style != "path" && style != "virtual" && style != "auto") {
    return Status::error(Code::kInvalid, "addressing_style of the AWS profile is '" + style +
                                             "', not auto, virtual or path");
  }

  const auto fips = uses_fips(settings, profile);
  if (!fips.ok()) return fips.status();
  const auto dual_stack = is_on(settings, "AWS_USE_DUALSTACK_ENDPOINT", profile,
                                {"s3.use_dualstack_endpoint", "use_dualstack_endpoint"});
  if (!dual_stack.ok()) return dual_stack.status();
  const auto accelerate = is_on(settings, nullptr, profile, {"s3.use_accelerate_endpoint"});
  if (!accelerate.ok()) return accelerate.status();
  out.fips = *fips;
  out.dual_stack = *dual_stack;
  out.accelerate = *accelerate;
  if (out.accelerate && out.fips) {
    return contradiction("S3 Accelerate has no FIPS endpoints (use_accelerate_endpoint)");
  }
  if (out.accelerate && out.endpoint) {
    return contradiction("S3 Accelerate can't be combined with an endpoint (" + std::string(from) +
                         ")");
  }
  if (out.accelerate && out.virtual_hosts == false) {
    return contradiction("S3 Accelerate can't be combined with path style URLs");
  }
  return out;
}

bool S3Addressing::uses_virtual_host(const std::string& bucket) const {
  if (is_express_bucket(bucket)) return !endpoint;
  if (!virtual_hosts.value_or(true) || !fits_host(bucket)) return false;
  if (!endpoint) return true;
  if (endpoint->host_is_ip() || endpoint->host == "localhost") return false;
  return virtual_hosts.has_value() || !endpoint->host_is_local();
}

Status S3Addressing::check(const std::string& bucket, const std::string& region) const {
  if (endpoint) return {};
  if (Status status = check_region(region); !status.ok()) return status;
  if (fips && is_china(region)) {
    return Status::error(Code::kUnsupported, "region " + region + " has no FIPS endpoints");
  }
  if (!accelerate) return {};
  if (is_china(region) || is_arn(bucket) || is_express_bucket(bucket) || !fits_host(bucket)) {
    return Status::error(Code::kUnsupported,
                         "S3 Accelerate does not serve bucket " + bucket + " in region " + region)
        .with_hint("Set use_accelerate_endpoint = false in the AWS profile");
  }
  return {};
}

std::string S3Addressing::aws_host(const std::string& bucket, const std::string& region) const {
  const std::string dual = dual_stack ? ".dualstack" : "";
  if (accelerate) return "s3-accelerate" + dual + "." + aws_suffix(region);
  const std::string service = is_arn(bucket)              ? "s3-accesspoint"
                              : is_express_bucket(bucket) ? "s3express"
                                                          : "s3";
  const std::string zone = is_express_bucket(bucket) ? "-" + express_zone(bucket) : "";
  return service + (fips ? "-fips" : "") + zone + dual + "." + region + "." + aws_suffix(region);
}

Result<Url> S3Addressing::url(const std::string& bucket, const std::string& key,
                              const std::string& region) const {
  if (Status status = check(bucket, region); !status.ok()) return status;
  Url out;
  if (endpoint) {
    out = *endpoint;
  } else {
    out.scheme = "https";
    out.host = aws_host(bucket, region);
  }
  if (is_arn(bucket)) {
    const Result<AccessPoint> point = parse_access_point(bucket);
    if (!point.ok()) return point.status();
    out.host.insert(0, point->name + "-" + point->account + ".");
    out.path += "/" + percent_encode(key, "/");
  } else if (uses_virtual_host(bucket)) {
    out.host.insert(0, bucket + ".");
    out.path += "/" + percent_encode(key, "/");
  } else {
    out.path += "/" + percent_encode(bucket) + (key.empty() ? "" : "/" + percent_encode(key, "/"));
  }
  return out;
}

}  // namespace streamer::http

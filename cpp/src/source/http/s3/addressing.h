// The URL of a bucket: endpoints, addressing styles, regions, access points.
#pragma once

#include <optional>
#include <string>

#include "base/settings.h"
#include "source/http/s3/aws_config.h"
#include "text/url.h"

namespace streamer::http {

// kInvalid if `region` cannot be a label of a host name.
Status check_region(const std::string& region);

// The DNS suffix of the partition that a region is in.
std::string aws_suffix(const std::string& region);

// True if FIPS endpoints are configured. kInvalid if the value of the profile is neither true nor
// false.
Result<bool> uses_fips(const Settings& settings, const AwsProfile& profile);

// A directory bucket of S3 Express One Zone: NAME--ZONE--x-s3.
bool is_express_bucket(const std::string& bucket);

// arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME, which stands in place of a bucket.
struct AccessPoint {
  std::string partition, region, account, name;
};
bool is_arn(const std::string& bucket);
// kUnsupported for resources of other kinds, kInvalid for text that is not an ARN.
Result<AccessPoint> parse_access_point(const std::string& arn);

struct S3Addressing {
  std::optional<Url> endpoint;        // none: AWS
  std::string endpoint_from;          // the setting or the key of the profile that names it
  std::optional<bool> virtual_hosts;  // as configured; none: by the endpoint
  // Of endpoints of AWS only.
  bool fips = false;
  bool dual_stack = false;
  bool accelerate = false;

  // The endpoint of settings and profile. kInvalid if it is not a URL, or if the settings
  // contradict each other.
  static Result<S3Addressing> read(const Settings& settings, const AwsProfile& profile);

  // The URL of an object (or of the bucket, with an empty key), without a query. kInvalid or
  // kUnsupported if the settings, the bucket and the region can't be combined.
  Result<Url> url(const std::string& bucket, const std::string& key,
                  const std::string& region) const;
  bool uses_virtual_host(const std::string& bucket) const;

 private:
  Status check(const std::string& bucket, const std::string& region) const;
  std::string aws_host(const std::string& bucket, const std::string& region) const;
};

}  // namespace streamer::http

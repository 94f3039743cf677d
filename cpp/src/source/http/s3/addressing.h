// Where a bucket is: endpoints, styles of addresses, regions.
#pragma once

#include <optional>
#include <string>

#include "base/settings.h"
#include "source/http/s3/aws_config.h"
#include "text/url.h"

namespace streamer::http {

// kInvalid if `region` cannot be a label of a host name.
Status check_region(const std::string& region);

// A directory bucket of S3 Express One Zone: NAME--ZONE--x-s3.
bool is_express_bucket(const std::string& bucket);

struct S3Addressing {
  std::optional<Url> endpoint;        // none: AWS
  std::optional<bool> virtual_hosts;  // what was asked for; none: by the endpoint

  // The endpoint of settings and profile. kInvalid where it is no address.
  static Result<S3Addressing> read(const Settings& settings, const AwsProfile& profile);

  // The URL of an object (or of the bucket, with an empty key), without a query. Without an
  // endpoint `region` must have passed check_region(): it becomes a part of the host.
  Url url(const std::string& bucket, const std::string& key, const std::string& region) const;
  bool uses_virtual_host(const std::string& bucket) const;
};

}  // namespace streamer::http

// Finding AWS credentials without an SDK.
#pragma once

#include <string>

#include "base/settings.h"
#include "source/http/client/connection.h"
#include "source/http/s3/aws_config.h"
#include "streamer/types.h"
#include "text/xml.h"

namespace streamer::http {

// Names of Credentials::values.
inline constexpr const char* kAccessKey = "access_key_id";
inline constexpr const char* kSecretKey = "secret_access_key";
inline constexpr const char* kSessionToken = "session_token";
inline constexpr const char* kRegion = "region";
inline constexpr const char* kEndpoint = "endpoint";

// The first that there is: environment, web identity, profile, container endpoint, EC2 instance
// metadata. kCredentials names the places that were searched. `region` is that of STS.
Result<Credentials> find_aws_credentials(const Settings& settings, const AwsProfile& profile,
                                         const std::string& region, Connection& connection);

// The <Credentials> element of responses of STS and CreateSession.
Result<Credentials> credentials_from_xml(const XmlElement& element, const std::string& from);

}  // namespace streamer::http

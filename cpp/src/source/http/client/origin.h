// The hosts that may receive a secret. Every such decision is made here. Origins (scheme, host and
// port) are parsed and compared as a whole; no decision depends on a part of a name.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "source/http/client/request.h"
#include "streamer/status.h"
#include "text/url.h"

namespace streamer::http {

// A secret, by the resource that it opens.
enum class Secret {
  kOneOrigin,      // a token of gs:// or hf://, Authorization of https://: one origin
  kAzureAccount,   // an account key or a shared access signature: one storage account
  kAzureIdentity,  // an access token for Azure Storage: every account that the identity may read
  kAwsContainer,   // the token that an AWS container presents to the service of its credentials
};

// The hosts that the settings name, beside those of the clouds.
struct OwnHosts {
  std::optional<Url> endpoint;  // the origin that the secret belongs to
  std::string azure_domain;     // a further domain of blob endpoints, e.g. "blob.core.local"
};

// True if a request that holds such a secret may be sent to the origin of `target`.
bool may_receive(Secret secret, const Url& target, const OwnHosts& own);

// True if both are URLs of the same scheme, host and port. False if one of them is not a URL.
bool same_origin(const std::string& a, const std::string& b);

// The blob endpoint of an account of Azure (or of `domain`, unless that is empty): https, port 443,
// and a host of one label before the domain. ACCOUNT-secondary counts, and ACCOUNT.zN if the
// domain has DNS zones.
bool is_azure_account(const Url& url, std::string_view domain);

// 127.0.0.0/8, ::1, or exactly "localhost".
bool is_loopback(const Url& url);

// An address of this machine (0.0.0.0/8, 127.0.0.0/8, ::, ::1, a name that ends with "localhost"),
// link-local (169.254.0.0/16, fe80::/10) or of services for this machine (fd00:ec2::/32), in any
// spelling, also as IPv4 in IPv6.
bool is_inside(const Url& url);

// A label of a host name: 1 to 63 of a-z A-Z 0-9 -, without '-' at its ends, and not a number. Text
// of settings, paths and servers must be one before it becomes a part of a host name.
bool is_host_label(std::string_view text);

// True if the query of `url` is a signature, which grants access by itself.
bool is_presigned(const std::string& url);

// kInvalid if the request would send a secret that can be replayed (a token, a password, a shared
// access signature) over plain http, unless it stays on this machine or on the link to the
// container's credentials service. Signed requests (SigV4, shared key) are fine.
Status check_plaintext(const Request& request);

}  // namespace streamer::http

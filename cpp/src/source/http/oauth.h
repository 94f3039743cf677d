// Access tokens: forms, signed assertions and answers of OAuth 2.0 services.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "source/http/connection.h"
#include "source/http/request.h"
#include "streamer/status.h"
#include "streamer/stream.h"

namespace streamer::http {

// The name of an access token in Credentials::values.
inline constexpr const char* kToken = "token";

// A body of type application/x-www-form-urlencoded.
std::string form_encode(
    std::initializer_list<std::pair<std::string_view, std::string_view>> fields);

// base64 in the alphabet of URLs, without padding.
std::string base64url(std::string_view bytes);

// A JSON web token signed with RS256. `claims` is a JSON document, `private_key` a PEM.
// kCredentials where the key is unusable.
Result<std::string> make_jwt(const std::string& claims, const std::string& private_key,
                             const std::string& key_id);

// A JSON string literal.
std::string json_quote(std::string_view text);

// Posts a form to a token service.
Request token_request(const std::string& url, std::string form);

// Makes the request and reads the token of the answer. kCredentials where the service refuses;
// `identity` and the service's own words are in the error.
Result<Credentials> fetch_token(const Request& request, const std::string& identity,
                                Connection& connection);

// The content of a small file that holds or describes a secret. kCredentials where it can't be
// read; `what` says in errors which one it is.
Result<std::string> read_credential_file(const std::string& path, const std::string& what);

}  // namespace streamer::http

// Access tokens: forms, signed assertions and responses of OAuth 2.0 services.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "source/http/client/connection.h"
#include "source/http/client/request.h"
#include "streamer/status.h"
#include "streamer/types.h"

namespace streamer::http {

// The name of an access token in Credentials::values.
inline constexpr const char* kToken = "token";

// A body of type application/x-www-form-urlencoded.
std::string form_encode(
    std::initializer_list<std::pair<std::string_view, std::string_view>> fields);

// base64 in the alphabet of URLs, without padding.
std::string base64url(std::string_view bytes);

// A JSON web token signed with RS256. `claims` is a JSON document, `private_key` a PEM.
// kCredentials if the key is unusable.
Result<std::string> make_jwt(const std::string& claims, const std::string& private_key,
                             const std::string& key_id);

// A JSON string literal.
std::string json_quote(std::string_view text);

// Adds the token as the header Authorization; false if there is none.
bool set_bearer(Request* request, const Credentials& credentials);

// Posts a form to a token service.
Request token_request(const std::string& url, std::string form);

// Sends a request to a metadata service, with the header that it requires. The service is near or
// does not exist, so that timeouts are short.
Request metadata_request(const std::string& url, const char* header, const std::string& value);

// Makes the request and reads the token of the response. kCredentials if the service refuses;
// The error contains `identity` and the text of the service.
Result<Credentials> fetch_token(const Request& request, const std::string& identity,
                                Connection& connection,
                                Persistence persistence = Persistence::kService);

// Grants of OAuth 2.0, each in exchange for a token: a signed statement of the account itself (RFC
// 7523, claims of `audience` and `scope`), a refresh token, and a client's own secret or, if it
// has an assertion (RFC 7521), that.
struct SigningKey {
  std::string pem, id;
};
Result<Credentials> token_from_jwt(const std::string& service, const std::string& account,
                                   const SigningKey& key, const char* scope,
                                   const std::string& identity, Connection& connection);
struct Client {
  std::string id, secret, assertion;
};
Result<Credentials> token_from_refresh(const std::string& service, const Client& client,
                                       const std::string& refresh_token,
                                       const std::string& identity, Connection& connection);
Result<Credentials> token_from_client(const std::string& service, const Client& client,
                                      const char* scope, const std::string& identity,
                                      Connection& connection);

// The content of a small file that holds or describes a secret. kCredentials if it can't be read;
// `what` names it in errors.
Result<std::string> read_credential_file(const std::string& path, const std::string& what);

}  // namespace streamer::http

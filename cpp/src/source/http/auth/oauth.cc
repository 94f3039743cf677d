#include "source/http/auth/oauth.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>

#include "source/http/auth/credentials_cache.h"
#include "source/http/auth/server_clock.h"
#include "text/encoding.h"
#include "text/json.h"

namespace streamer::http {
namespace {

constexpr std::size_t kFileLimit = 1 << 20;
constexpr int kMetadataTimeoutMs = 3000;
constexpr std::int64_t kClockStep = 10;            // seconds
constexpr std::int64_t kAssertionLifetime = 3600;  // seconds; the most that services grant

// Without a prompt on the terminal for the password of an encrypted key.
int no_password(char*, int, int, void*) { return -1; }

Result<std::string> sign_rs256(const std::string& pem, std::string_view data) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> text(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free);
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      PEM_read_bio_PrivateKey(text.get(), nullptr, &no_password, nullptr), &EVP_PKEY_free);
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
  std::size_t size = 0;
  if (!key || EVP_PKEY_base_id(key.get()) != EVP_PKEY_RSA || !context ||
      EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, bytes, data.size()) != 1) {
    return Status::error(Code::kCredentials, "the private key of the credentials is unusable")
        .with_hint("It must be an RSA key in PEM, without a password");
  }
  std::string signature(size, '\0');
  if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                     bytes, data.size()) != 1) {
    return Status::error(Code::kCredentials, "signing with the private key failed");
  }
  signature.resize(size);
  return signature;
}

}  // namespace

std::string form_encode(
    std::initializer_list<std::pair<std::string_view, std::string_view>> fields) {
  std::string out;
  for (const auto& [name, value] : fields) {
    if (!out.empty()) out += '&';
    out.append(name).append("=").append(percent_encode(value));
  }
  return out;
}

std::string base64url(std::string_view bytes) {
  std::string out = base64(bytes);
  while (out.ends_with('=')) out.pop_back();
  for (char& c : out) {
    if (c == '+') c = '-';
    if (c == '/') c = '_';
  }
  return out;
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < ' ') {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

Result<std::string> make_jwt(const std::string& claims, const std::string& private_key,
                             const std::string& key_id) {
  std::string header = R"({"alg":"RS256","typ":"JWT")";
  if (!key_id.empty()) header += ",\"kid\":" + json_quote(key_id);
  const std::string content = base64url(header + "}") + "." + base64url(claims);
  Result<std::string> signature = sign_rs256(private_key, content);
  if (!signature.ok()) return signature;
  return content + "." + base64url(*signature);
}

Request token_request(const std::string& url, std::string form) {
  Request request{.method = "POST", .url = url};
  request.set("Content-Type", "application/x-www-form-urlencoded");
  request.body = std::move(form);
  request.secret_body = true;
  return request;
}

bool set_bearer(Request* request, const Credentials& credentials) {
  const std::string token = value_of(credentials, kToken);
  if (!token.empty()) request->set("Authorization", "Bearer " + token);
  return !token.empty();
}

Request metadata_request(const std::string& url, const char* header, const std::string& value) {
  Request request{.url = url, .proxy = false};
  request.timeout_ms = request.connect_timeout_ms = kMetadataTimeoutMs;
  request.set(header, value);
  return request;
}

namespace {

Result<Credentials> ask_by_jwt(const std::string& service, const std::string& account,
                               const SigningKey& key, const char* scope,
                               const std::string& identity, Connection& connection) {
  const std::int64_t now = server_time(service);
  const std::string claims = "{\"iss\":" + json_quote(account) + ",\"scope\":" + json_quote(scope) +
                             ",\"aud\":" + json_quote(service) + ",\"iat\":" + std::to_string(now) +
                             ",\"exp\":" + std::to_string(now + kAssertionLifetime) + "}";
  Result<std::string> jwt = make_jwt(claims, key.pem, key.id);
  if (!jwt.ok()) return jwt.status().with_identity(identity);
  const std::string form = form_encode(
      {{"grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"}, {"assertion", *jwt}});
  Request request = token_request(service, form);
  request.signed_at = now;
  return fetch_token(request, identity, connection);
}

}  // namespace

Result<Credentials> token_from_jwt(const std::string& service, const std::string& account,
                                   const SigningKey& key, const char* scope,
                                   const std::string& identity, Connection& connection) {
  const auto offset = [&] { return server_time(service) - std::time(nullptr); };
  const std::int64_t before = offset();
  Result<Credentials> token = ask_by_jwt(service, account, key, scope, identity, connection);
  // The refusal may have shown that this machine's clock is wrong.
  if (!token.ok() && std::abs(offset() - before) > kClockStep) {
    token = ask_by_jwt(service, account, key, scope, identity, connection);
  }
  return token;
}

Result<Credentials> token_from_refresh(const std::string& service, const Client& client,
                                       const std::string& refresh_token,
                                       const std::string& identity, Connection& connection) {
  const std::string form = form_encode({{"grant_type", "refresh_token"},
                                        {"client_id", client.id},
                                        {"client_secret", client.secret},
                                        {"refresh_token", refresh_token}});
  return fetch_token(token_request(service, form), identity, connection);
}

Result<Credentials> token_from_client(const std::string& service, const Client& client,
                                      const char* scope, const std::string& identity,
                                      Connection& connection) {
  std::string form = form_encode(
      {{"grant_type", "client_credentials"}, {"client_id", client.id}, {"scope", scope}});
  if (client.assertion.empty()) {
    form += "&" + form_encode({{"client_secret", client.secret}});
  } else {
    form += "&" + form_encode({{"client_assertion_type",
                                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
                               {"client_assertion", client.assertion}});
  }
  return fetch_token(token_request(service, form), identity, connection);
}

Result<Credentials> fetch_token(const Request& request, const std::string& identity,
                                Connection& connection, Persistence persistence) {
  Result<Response> response = connection.fetch(request, persistence);
  if (!response.ok()) return response.status().with_identity(identity);
  const std::optional<Json> parsed = parse_json(response->body);
  const Json nothing;
  const Json& json = parsed ? *parsed : nothing;
  Credentials credentials;
  credentials.identity = identity;
  std::string token = json.string("access_token");
  if (response->status != 200 || token.empty()) {
    learn_server_time(*response);
    // Some services put an object under "error", others a word.
    std::string code = json["error"].string("status");
    if (code.empty()) code = json.string("error");
    std::string message = json.string("error_description");
    if (message.empty()) message = json["error"].string("message");
    return Status::error(Code::kCredentials, "no access token for " + identity)
        .with_http(response->status, std::move(code),
                   message.substr(0, message.find_first_of("\r\n")),
                   std::string(response->header("x-ms-request-id")))
        .with_identity(identity);
  }
  credentials.values[kToken] = std::move(token);
  const std::int64_t now = std::time(nullptr);
  if (const auto seconds = json.integer("expires_in")) {
    credentials.expires_at = now + *seconds;
  } else {
    credentials.expires_at = json.integer("expires_on").value_or(0);
  }
  return credentials;
}

Result<std::string> read_credential_file(const std::string& path, const std::string& what) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"),
                                                             &std::fclose);
  std::string text;
  if (file) {
    text.resize(kFileLimit);
    text.resize(std::fread(text.data(), 1, text.size(), file.get()));
    if (std::ferror(file.get()) == 0) return text;
  }
  const int error = errno;
  return Status::error(Code::kCredentials, "can't read " + what + " " + path).with_errno(error);
}

}  // namespace streamer::http

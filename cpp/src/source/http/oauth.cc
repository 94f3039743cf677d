#include "source/http/oauth.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <memory>

#include "source/http/encoding.h"
#include "source/http/json.h"

namespace streamer::http {
namespace {

constexpr std::size_t kFileLimit = 1 << 20;

// Never asks on the terminal for the password of an encrypted key.
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
  return request;
}

Result<Credentials> fetch_token(const Request& request, const std::string& identity,
                                Connection& connection) {
  Result<Response> response = connection.fetch(request);
  if (!response.ok()) return response.status().with_identity(identity);
  const std::optional<Json> answer = parse_json(response->body);
  const Json nothing;
  const Json& json = answer ? *answer : nothing;
  Credentials credentials;
  credentials.identity = identity;
  std::string token = json.string("access_token");
  if (response->status != 200 || token.empty()) {
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

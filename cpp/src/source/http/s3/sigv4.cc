#include "source/http/s3/sigv4.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

constexpr std::size_t kCachedKeys = 16;

// Runs of white space become one space.
std::string collapse(std::string_view value) {
  std::string out;
  bool space = false;
  for (const char c : trim(value)) {
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
      space = true;
      continue;
    }
    if (space) out += ' ';
    space = false;
    out += c;
  }
  return out;
}

// Pairs sorted by name and value, as they are encoded.
std::string canonical_query(std::string_view query) {
  Pairs pairs = split_pairs(query, '&');
  std::sort(pairs.begin(), pairs.end());
  std::string out;
  for (const auto& [name, value] : pairs) {
    if (!out.empty()) out += '&';
    out.append(name).append("=").append(value);
  }
  return out;
}

// Headers that change on the way or that proxies may add.
bool not_signed(const std::string& name) {
  return name == "expect" || name == "transfer-encoding" || name == "user-agent" ||
         name == "x-amzn-trace-id" || name == "authorization";
}

}  // namespace

std::string SigV4Signer::signing_key(const SigV4Scope& scope, const std::string& day) {
  const MutexLock lock(mutex_);
  for (auto it = keys_.begin(); it != keys_.end(); ++it) {
    if (it->day == day && it->region == scope.region && it->service == scope.service &&
        it->secret == scope.secret_key) {
      keys_.splice(keys_.begin(), keys_, it);
      return it->key;
    }
  }
  std::string key = hmac_sha256("AWS4" + scope.secret_key, day);
  for (const std::string& part : {scope.region, scope.service, std::string("aws4_request")}) {
    key = hmac_sha256(key, part);
  }
  keys_.push_front({scope.secret_key, day, scope.region, scope.service, key});
  if (keys_.size() > kCachedKeys) keys_.pop_back();
  return key;
}

void SigV4Signer::sign(Request* request, const Url& url, const SigV4Scope& scope, std::time_t now,
                       const std::string& payload_hash) {
  const std::string stamp = format_utc(now, "%Y%m%dT%H%M%SZ");
  const std::string day = stamp.substr(0, 8);
  request->set("x-amz-date", stamp);
  request->set("x-amz-content-sha256", payload_hash);
  if (!scope.token.empty()) request->set(scope.token_header, scope.token);

  std::map<std::string, std::string> headers{{"host", url.authority()}};
  for (const Header& header : request->headers) {
    const std::string name = lower(header.name);
    if (not_signed(name)) continue;
    const auto [it, fresh] = headers.try_emplace(name, collapse(header.value));
    if (!fresh) it->second += "," + collapse(header.value);
  }
  std::string canonical_headers;
  std::string signed_headers;
  for (const auto& [name, value] : headers) {
    canonical_headers.append(name).append(":").append(value).append("\n");
    if (!signed_headers.empty()) signed_headers += ';';
    signed_headers += name;
  }
  const std::string canonical = request->method + "\n" + (url.path.empty() ? "/" : url.path) +
                                "\n" + canonical_query(url.query) + "\n" + canonical_headers +
                                "\n" + signed_headers + "\n" + payload_hash;
  const std::string credential = day + "/" + scope.region + "/" + scope.service + "/aws4_request";
  const std::string to_sign =
      "AWS4-HMAC-SHA256\n" + stamp + "\n" + credential + "\n" + hex(sha256(canonical));
  request->set("Authorization",
               "AWS4-HMAC-SHA256 Credential=" + scope.access_key + "/" + credential +
                   ", SignedHeaders=" + signed_headers +
                   ", Signature=" + hex(hmac_sha256(signing_key(scope, day), to_sign)));
}

}  // namespace streamer::http

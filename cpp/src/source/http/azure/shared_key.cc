#include "source/http/azure/shared_key.h"

#include <algorithm>
#include <map>
#include <vector>

#include "base/text.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

// "\nname:value" of every parameter: names in lower case and sorted, values decoded.
std::string canonical_query(std::string_view query) {
  std::map<std::string, std::vector<std::string>> parameters;
  for (const auto& [name, value] : split_pairs(query, '&')) {
    parameters[lower(percent_decode(name))].push_back(percent_decode(value));
  }
  std::string out;
  for (auto& [name, values] : parameters) {
    std::sort(values.begin(), values.end());
    out += "\n" + name + ":";
    for (std::size_t i = 0; i < values.size(); ++i) out += (i > 0 ? "," : "") + values[i];
  }
  return out;
}

}  // namespace

void sign_shared_key(Request* request, const Url& url, const std::string& account,
                     const std::string& key, std::time_t now) {
  request->set("x-ms-date", http_date(now));
  std::map<std::string, std::string> headers;
  for (const Header& header : request->headers) headers[lower(header.name)] = trim(header.value);

  std::string to_sign = request->method + "\n";
  for (const char* name :
       {"content-encoding", "content-language", "content-length", "content-md5", "content-type",
        "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"}) {
    const auto it = headers.find(name);
    if (it != headers.end()) to_sign += it->second;
    to_sign += "\n";
  }
  for (const auto& [name, value] : headers) {
    if (name.starts_with("x-ms-")) to_sign.append(name).append(":").append(value).append("\n");
  }
  to_sign += "/" + account + url.path + canonical_query(url.query);
  request->set("Authorization", "SharedKey " + account + ":" + base64(hmac_sha256(key, to_sign)));
}

}  // namespace streamer::http

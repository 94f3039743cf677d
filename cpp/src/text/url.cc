#include "text/url.h"

#include <algorithm>
#include <cctype>

#include "base/text.h"

namespace streamer::http {
namespace {

Status invalid(std::string_view why) {
  // The text itself is not repeated: it may hold a password.
  return Status::error(Code::kInvalid, "not a usable http or https URL: " + std::string(why));
}

// An address, or a name without characters by which other readers take another part as the host.
bool is_host(std::string_view text) {
  const bool address = text.size() > 2 && text.starts_with('[') && text.ends_with(']');
  if (address) text = text.substr(1, text.size() - 2);
  return std::all_of(text.begin(), text.end(), [address](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '.' || c == '_' || c >= 0x80 ||
           (address && (c == ':' || c == '%'));
  });
}

int standard_port(std::string_view scheme) { return scheme == "https" ? 443 : 80; }

}  // namespace

std::string Url::authority() const {
  if (port == 0 || port == standard_port(scheme)) return host;
  return host + ":" + std::to_string(port);
}

std::string Url::to_string() const {
  std::string text = origin() + (path.empty() ? "/" : path);
  if (!query.empty()) text += "?" + query;
  return text;
}

bool Url::host_is_ip() const {
  if (host.starts_with('[')) return true;
  return host.find_first_not_of("0123456789.") == std::string::npos;
}

bool Url::host_is_local() const { return host == "localhost" || host.ends_with(".localhost"); }

Result<Url> parse_url(std::string_view text, std::string_view default_scheme) {
  Url url;
  text = trim(text);
  const std::size_t mark = text.find("://");
  if (mark == std::string_view::npos) {
    if (default_scheme.empty()) return invalid("it has no scheme");
    url.scheme = default_scheme;
  } else {
    url.scheme = lower(text.substr(0, mark));
    text.remove_prefix(mark + 3);
  }
  if (url.scheme != "http" && url.scheme != "https") return invalid("its scheme is neither");
  for (const char c : text) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f') return invalid("it contains spaces");
  }
  text = text.substr(0, text.find('#'));
  const std::size_t end = text.find_first_of("/?");
  std::string_view authority = text.substr(0, end);
  std::string_view rest = end == std::string_view::npos ? std::string_view() : text.substr(end);
  if (authority.find('@') != std::string_view::npos) return invalid("it contains a user name");

  std::size_t colon = authority.rfind(':');
  if (authority.starts_with('[')) {
    const std::size_t close = authority.find(']');
    if (close == std::string_view::npos) return invalid("a bracket is missing");
    colon = close + 1 < authority.size() && authority[close + 1] == ':' ? close + 1
                                                                        : std::string_view::npos;
  }
  if (colon != std::string_view::npos) {
    const std::uint64_t port = parse_number(authority.substr(colon + 1)).value_or(0);
    if (port < 1 || port > 65535) return invalid("its port is not a number from 1 to 65535");
    url.port = static_cast<int>(port);
    authority = authority.substr(0, colon);
  }
  if (authority.empty()) return invalid("it has no host");
  if (!is_host(authority)) return invalid("its host is not valid");
  url.host = lower(authority);
  if (url.port == standard_port(url.scheme)) url.port = 0;
  const std::size_t question = rest.find('?');
  url.path = rest.substr(0, question);
  if (question != std::string_view::npos) url.query = rest.substr(question + 1);
  return url;
}

Result<std::string> parse_endpoint(std::string_view text, std::string_view default_scheme) {
  Result<Url> url = parse_url(text, default_scheme);
  if (!url.ok()) return url.status();
  while (url->path.ends_with('/')) url->path.pop_back();
  return url->origin() + url->path;
}

Pairs split_pairs(std::string_view text, char separator) {
  Pairs pairs;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    const std::string_view pair = text.substr(0, end);
    const std::size_t equals = std::min(pair.find('='), pair.size());
    pairs.emplace_back(pair.substr(0, equals), pair.substr(std::min(equals + 1, pair.size())));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return pairs;
}

}  // namespace streamer::http

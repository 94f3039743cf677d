#include "source/http/client/proxy.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <utility>

#include "base/text.h"
#include "text/encoding.h"
#include "text/url.h"

namespace streamer::http {
namespace {

struct Setting {
  std::string name, value;
};

Setting first_of(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* value = std::getenv(name);
    if (value != nullptr && !trim(value).empty()) return {name, std::string(trim(value))};
  }
  return {};
}

std::string_view without_brackets(std::string_view host) {
  return host.starts_with('[') && host.ends_with(']') ? host.substr(1, host.size() - 2) : host;
}

bool in_network(std::string_view host, std::string_view network) {
  const std::size_t slash = network.find('/');
  const auto prefix = parse_number(network.substr(slash + 1));
  if (!prefix) return false;
  const std::uint64_t bits = *prefix;
  for (const int family : {AF_INET, AF_INET6}) {
    const std::string wanted = address_bytes(family, without_brackets(network.substr(0, slash)));
    const std::string own = address_bytes(family, host);
    if (wanted.empty() || own.empty() || bits > 8 * own.size()) continue;
    const std::size_t whole = bits / 8;
    if (own.substr(0, whole) != wanted.substr(0, whole)) return false;
    if (bits % 8 == 0) return true;
    const unsigned mask = 0xFF00u >> (bits % 8) & 0xFFu;
    return ((static_cast<unsigned char>(own[whole]) ^ static_cast<unsigned char>(wanted[whole])) &
            mask) == 0;
  }
  return false;
}

bool names_host(std::string_view host, int port, std::string_view entry) {
  if (entry == "*") return true;
  if (entry.find('/') != std::string_view::npos) return in_network(host, entry);
  const std::size_t colon = entry.rfind(':');
  const bool bracket = entry.starts_with('[');
  const bool one = entry.find(':') == colon;
  if (colon != std::string_view::npos && (bracket ? entry[colon - 1] == ']' : one)) {
    if (entry.substr(colon + 1) != std::to_string(port)) return false;
    entry = entry.substr(0, colon);
  }
  entry = without_brackets(entry);
  for (const int family : {AF_INET, AF_INET6}) {
    const std::string own = address_bytes(family, host);
    if (!own.empty()) return own == address_bytes(family, entry);
  }
  if (entry.starts_with("*.")) entry.remove_prefix(1);
  if (entry.starts_with('.')) entry.remove_prefix(1);
  if (entry.ends_with('.')) entry.remove_suffix(1);
  const std::string name = lower(entry);
  return !name.empty() && (host == name || host.ends_with("." + name));
}

// The version of SOCKS that the scheme of a proxy names; 0: none. As in libcurl, "socks" is the
// oldest one.
int socks_version(std::string_view scheme) {
  if (scheme == "socks5" || scheme == "socks5h") return 5;
  return scheme == "socks" || scheme == "socks4" || scheme == "socks4a" ? 4 : 0;
}

}  // namespace

std::string address_bytes(int family, std::string_view text) {
  unsigned char bytes[16];
  if (inet_pton(family, std::string(text).c_str(), bytes) != 1) return {};
  return std::string(reinterpret_cast<const char*>(bytes), family == AF_INET ? 4 : 16);
}

bool without_proxy(const Url& url, std::string_view list) {
  std::string_view host = without_brackets(url.host);
  if (host.ends_with('.')) host.remove_suffix(1);
  const int port = url.port != 0 ? url.port : url.scheme == "https" ? 443 : 80;
  while (!list.empty()) {
    const std::size_t end = std::min(list.find_first_of(", \t"), list.size());
    const std::string_view entry = list.substr(0, end);
    if (!entry.empty() && names_host(host, port, entry)) return true;
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return false;
}

std::string ProxyServer::shown() const {
  const int port = url.port != 0 ? url.port : url.scheme == "https" ? 443 : 80;
  return url.host + ":" + std::to_string(port);
}

Result<std::optional<ProxyServer>> proxy_of(const Url& url) {
  const Setting proxy = url.scheme == "https"
                            ? first_of({"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"})
                            : first_of({"http_proxy", "all_proxy", "ALL_PROXY"});
  std::optional<ProxyServer> found;
  if (proxy.value.empty() || without_proxy(url, first_of({"no_proxy", "NO_PROXY"}).value)) {
    return found;
  }
  Result<ProxyServer> server = parse_proxy(proxy.value, proxy.name);
  if (!server.ok()) return server.status();
  found = std::move(*server);
  return found;
}

Result<std::optional<ProxyServer>> proxy_for(const Request& request) {
  const Result<Url> url = parse_url(request.url);
  if (!request.proxy || !url.ok()) return std::optional<ProxyServer>();
  return proxy_of(*url);
}

Result<ProxyServer> parse_proxy(std::string_view text, const std::string& variable) {
  constexpr int kPort = 1080;  // libcurl's, if no other is named
  const auto invalid = [&](std::string_view why) {
    return Status::error(Code::kInvalid, variable + " does not name a proxy: " + std::string(why))
        .with_hint(
            "Set " + variable +
            " to SCHEME://HOST:PORT with http, https, socks4, socks4a, socks5 or socks5h, or "
            "unset it; a user and a password before the host are percent-encoded");
  };
  ProxyServer proxy;
  proxy.variable = variable;
  proxy.text = text;
  proxy.scheme = "http";
  if (const std::size_t begin = after_scheme(text); begin > 0) {
    proxy.scheme = lower(text.substr(0, begin - 3));
    text.remove_prefix(begin);
  }
  proxy.socks = socks_version(proxy.scheme);
  if (proxy.socks == 0 && proxy.scheme != "http" && proxy.scheme != "https") {
    return invalid("its scheme is not one of a proxy");
  }
  const std::size_t end = std::min(text.find_first_of("/?#"), text.size());
  if (text.find('@', end) != std::string_view::npos) {
    return invalid("its user or its password is not percent-encoded");
  }
  if (proxy.socks != 0) {
    proxy.resolves = proxy.scheme == "socks4a" || proxy.scheme == "socks5h";
    // libcurl takes a path for that of a local socket.
    proxy.by_libcurl = text.find('/') < text.size() - 1;
  }
  text = text.substr(0, end);
  if (const std::size_t at = text.rfind('@'); at != std::string_view::npos) {
    const std::string_view user = text.substr(0, at);
    const std::size_t colon = std::min(user.find(':'), user.size());
    proxy.user = percent_decode(user.substr(0, colon));
    proxy.password = percent_decode(user.substr(std::min(colon + 1, user.size())));
    if (proxy.socks == 0) {
      proxy.authorization = "Basic " + base64(proxy.user + ":" + proxy.password);
    }
    text.remove_prefix(at + 1);
  }
  const std::string scheme = proxy.scheme == "https" ? "https" : "http";
  Result<Url> url = parse_url(scheme + "://" + std::string(text));
  if (!url.ok()) {
    const std::string why = url.status().detail().message;
    return invalid(std::string_view(why).substr(why.rfind(": ") + 2));
  }
  proxy.url = std::move(*url);
  const std::string_view host = proxy.url.host;
  if (host.starts_with('[') &&
      address_bytes(AF_INET6, host.substr(1, host.find_first_of("%]") - 1)).empty()) {
    return invalid("what stands in brackets is no IPv6 address");
  }
  proxy.by_libcurl |= std::any_of(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; });
  const std::size_t bracket = std::min(text.rfind(']'), text.size());
  const bool has_port = text.find(':', bracket == text.size() ? 0 : bracket) != text.npos;
  if (!has_port && scheme == "http") proxy.url.port = kPort;
  return proxy;
}

bool any_proxy_has_tls() {
  const auto has_tls = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && lower(trim(value)).starts_with("https://");
  };
  for (const char* name : {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}) {
    if (has_tls(name)) return true;
  }
  return false;
}

}  // namespace streamer::http

// The proxy that the environment names.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/url.h"

namespace streamer::http {

// The proxy for `url`, as http_proxy, https_proxy, HTTPS_PROXY, all_proxy and ALL_PROXY name it;
// empty: none, or no_proxy or NO_PROXY names the host. HTTP_PROXY is ignored, as libcurl does: a
// CGI program would take it from a request.
std::string proxy_of(const Url& url);

// True if `list`, in the form of NO_PROXY, names the host of `url`: "*", names (with all that ends
// with ".NAME"), addresses, networks ("10.0.0.0/8"); names and addresses with ":PORT", too.
bool without_proxy(const Url& url, std::string_view list);

struct ProxyServer {
  Url url;                    // http, or https: it is reached by TLS; without a path
  std::string authorization;  // of HTTP: the value of Proxy-Authorization; empty: none
  int socks = 0;              // the version of SOCKS, 4 or 5; 0: an HTTP proxy
  bool resolves = true;       // names; false: it is told addresses
  std::string user, password;
};

// The proxy that `text` names, as in "http://user:password@host:port", with http, https, socks4,
// socks4a, socks5 or socks5h; the user and the password are percent-encoded. None if it is a proxy
// of another kind (SOCKS by a local socket), or no proxy at all.
std::optional<ProxyServer> parse_proxy(std::string_view text);

// The bytes of an address of AF_INET or AF_INET6; empty: `text` is none.
std::string address_bytes(int family, std::string_view text);

// True if some proxy of the environment is reached by TLS.
bool any_proxy_has_tls();

// The host and the port of a proxy, without its user and password.
std::string shown_proxy(std::string_view proxy);

}  // namespace streamer::http

// The proxy that the environment names.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "source/http/client/request.h"
#include "streamer/status.h"
#include "text/url.h"

namespace streamer::http {

// True if `list`, in the form of NO_PROXY, names the host of `url`: "*", names (with all that ends
// with ".NAME"), addresses, networks ("10.0.0.0/8"); names and addresses with ":PORT", too.
bool without_proxy(const Url& url, std::string_view list);

struct ProxyServer {
  std::string variable;       // of the environment, that names it
  std::string text;           // the value: it may hold a password
  std::string scheme;         // http, https, socks4, socks4a, socks5 or socks5h
  Url url;                    // http, or https: it is reached by TLS; without a path
  std::string authorization;  // of HTTP: the value of Proxy-Authorization; empty: none
  int socks = 0;              // the version of SOCKS, 4 or 5; 0: an HTTP proxy
  bool resolves = true;       // names; false: it is told addresses
  // Only libcurl connects to it: SOCKS by a local socket, or a host in another script.
  bool by_libcurl = false;
  std::string user, password;

  bool has_login() const { return !user.empty() || !password.empty(); }
  std::string shown() const;                                                      // host and port
  std::string to_check() const { return "Check " + variable + " and NO_PROXY"; }  // a hint
};

// The proxy that `text` names, as in "http://user:password@host:port"; the user and the password
// are percent-encoded. kInvalid, with the name of the variable, if it names none.
Result<ProxyServer> parse_proxy(std::string_view text, const std::string& variable = "ALL_PROXY");

// The proxy for `url`, as http_proxy, https_proxy, HTTPS_PROXY, all_proxy and ALL_PROXY name it.
// None: no variable does, or no_proxy or NO_PROXY names the host. HTTP_PROXY is ignored, as libcurl
// does: a CGI program would take it from a request.
Result<std::optional<ProxyServer>> proxy_of(const Url& url);
// The proxy that the request is sent to.
Result<std::optional<ProxyServer>> proxy_for(const Request& request);

// The bytes of an address of AF_INET or AF_INET6; empty: `text` is none.
std::string address_bytes(int family, std::string_view text);

// True if some proxy of the environment is reached by TLS.
bool any_proxy_has_tls();

}  // namespace streamer::http

// The messages of HTTP: one request and its response. Values, without behaviour.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace streamer::http {

struct Header {
  std::string name;  // of requests: as it is sent; of responses: lower case
  std::string value;
};

struct Request {
  std::string method = "GET";  // GET, HEAD, POST or PUT
  std::string url;             // percent-encoded, sent as it is
  std::vector<Header> headers = {};
  std::string body = {};     // of POST and PUT
  bool secret_body = false;  // the body holds a password, a token or an assertion
  bool own_query = true;     // false: the query is the caller's or another server's, and secret
  bool proxy = true;         // false: connect directly (metadata services)
  std::size_t text_limit = 16 << 20;  // bytes of a 2xx response that goes to Response::body
  int timeout_ms = 0;                 // of the whole attempt; 0: that of the settings
  int connect_timeout_ms = 0;         // likewise
  int begin_seconds = 0;       // until the response begins, if it may take longer than a stall
  std::int64_t signed_at = 0;  // seconds since the epoch that the signature has; 0: no date

  void set(std::string name, std::string value) {
    headers.push_back({std::move(name), std::move(value)});
  }
};

struct Response {
  std::string url;             // of the request
  std::int64_t signed_at = 0;  // likewise
  int status = 0;
  std::vector<Header> headers;  // of the last response, names in lower case
  std::string body;             // unless it went to memory of the caller's; cut at a limit
  double seconds = 0;           // until all of it was there
  double waited = 0;            // until it began

  // The first value of `name` (lower case); empty if there is none.
  std::string_view header(std::string_view name) const {
    for (const Header& h : headers) {
      if (h.name == name) return h.value;
    }
    return {};
  }
};

}  // namespace streamer::http

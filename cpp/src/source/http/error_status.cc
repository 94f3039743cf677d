#include "source/http/error_status.h"

#include <string>
#include <string_view>
#include <utility>

#include "base/shown_text.h"
#include "base/text.h"
#include "source/http/client/proxy.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr std::size_t kShownText = 120;  // characters of an error page

const char* standard_message(Code code) {
  switch (code) {
    case Code::kNotFound: return "there is no such object or bucket";
    case Code::kPermission: return "the server refuses access";
    case Code::kCredentials: return "the server does not accept the credentials";
    case Code::kChanged: return "the object was replaced while it was read";
    case Code::kThrottled: return "the server asks to slow down";
    case Code::kTimeout: return "the server reports a timeout";
    default: return "the server reports an error";
  }
}

// The first words of an error that is no document of the protocol: a page of a proxy or of another
// service. Empty if there are none.
std::string words_of(const std::string& page) {
  std::string words;
  bool tag = false;
  for (const char c : std::string_view(page).substr(0, 4096)) {
    const bool text = !tag && c != '<' && static_cast<unsigned char>(c) > ' ';
    if (c == '<') tag = true;
    if (text) words += c;
    if (!text && !words.empty() && words.back() != ' ') words += ' ';
    if (c == '>') tag = false;
  }
  return cut_text(trim(words), kShownText);
}

// An error of a server between the client and the storage, or of a wrong address.
void explain(const Response& response, std::string* message, std::string* hint) {
  if (response.status == 407) {
    const Result<Url> url = parse_url(response.url);
    const auto proxy = url.ok() ? proxy_of(*url) : url.status();
    if (!proxy.ok() || !*proxy) {
      *message = "a proxy that no variable names demands a user and a password";
      *hint = "Check the endpoint; https_proxy and http_proxy name proxies";
    } else {
      const char* why = (*proxy)->has_login() ? "it does not accept the user and the password"
                                              : "it demands a user and a password";
      *message = std::string("the proxy refuses: ") + why;
      *hint = (*proxy)->to_check();
    }
  }
  if (response.status >= 300 && response.status <= 399 && response.status != 304) {
    if (message->empty()) *message = "the server redirects, which is not followed";
    if (hint->empty()) *hint = "Check the endpoint: this one belongs to another service";
  }
  if (response.status == 416 && message->empty()) {
    *message = "the server says that the object ends before the bytes asked for";
  }
  const std::string text = lower(response.body.substr(0, 4096));
  const bool tls = text.find("https") != std::string::npos || text.find("tls") != std::string::npos;
  if (response.status == 400 && tls && lower(response.url.substr(0, 7)) == "http://") {
    *hint = "The server seems to speak TLS at this port: use https:// in the endpoint";
  }
}

}  // namespace

const char* standard_hint(const Status& status) {
  switch (status.code()) {
    case Code::kTimeout:
      return "The server or a firewall before it stays silent: check the endpoint, "
             "RUNAI_STREAMER_S3_LOW_SPEED_LIMIT and RUNAI_STREAMER_LOW_SPEED_SECONDS";
    case Code::kNetwork: return "Check the endpoint, its scheme (http:// or https://) and its port";
    case Code::kThrottled: return "Lower RUNAI_STREAMER_CONCURRENCY, or load fewer models at once";
    case Code::kNotFound: return "Check the path, whose case matters, and the endpoint";
    default: return "";
  }
}

Status replaced(Status status) {
  const bool gone = status.code() == Code::kNotFound || status.code() == Code::kPermission ||
                    status.code() == Code::kInvalid;
  if (!gone) return status;
  const ErrorDetail& detail = status.detail();
  return Status::error(Code::kChanged,
                       "the object was replaced while it was read, and the store does not give the "
                       "former version")
      .with_http(detail.http_status, detail.server_code, detail.server_message, detail.request_id)
      .with_identity(detail.identity)
      .with_hint("Load again; reading former versions needs a permission of its own");
}

Status to_status(ServerError error, const Response& response, const CredentialsRef& credentials) {
  explain(response, &error.message, &error.hint);
  if (error.server_code.empty() && error.server_message.empty()) {
    error.server_message = words_of(response.body);
  }
  Status status =
      Status::error(error.code,
                    error.message.empty() ? standard_message(error.code) : error.message)
          .with_http(response.status, error.server_code, error.server_message, error.request_id)
          .with_hint(error.hint);
  if (credentials) status = std::move(status).with_identity(credentials->identity);
  return status;
}

bool is_html(const Response& response) {
  return lower(response.header("content-type")).starts_with("text/html") ||
         lower(trim(std::string_view(response.body).substr(0, 256))).starts_with("<!doctype html");
}

Status sent_a_page(const Response& response, const std::string& wanted) {
  const std::string_view type = response.header("content-type");
  return Status::error(Code::kIo, "the server sent a page (" +
                                      std::string(type.empty() ? "HTML" : type) +
                                      ") instead of the " + wanted)
      .with_hint("A proxy or a login page responds in its place: check the endpoint");
}

}  // namespace streamer::http

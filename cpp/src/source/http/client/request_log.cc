#include "source/http/client/request_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <utility>

#include "base/shown_text.h"
#include "base/text.h"
#include "text/encoding.h"
#include "text/url.h"

namespace streamer::http {
namespace {

// Parameters of queries whose values give no access.
bool harmless(std::string_view name) {
  constexpr std::string_view kHarmless[] = {"list-type",  "prefix",
                                            "delimiter",  "continuation-token",
                                            "max-keys",   "start-after",
                                            "alt",        "pageToken",
                                            "maxResults", "encoding-type",
                                            "session",    "restype",
                                            "comp",       "marker",
                                            "maxresults", "include",
                                            "fields",     "generation",
                                            "recursive",  "expand",
                                            "versionId",  "response-content-type"};
  for (const std::string_view known : kHarmless) {
    if (name == known) return true;
  }
  return false;
}

// No spaces and no control characters, so that a line stays a line.
std::string word(std::string_view text) {
  std::string out;
  for (const char c : text) out += static_cast<unsigned char>(c) <= ' ' ? '_' : c;
  return out.empty() ? "-" : escape_controls(out);
}

std::string_view request_id(const Response& response) {
  for (const char* name :
       {"x-amz-request-id", "x-ms-request-id", "x-guploader-uploadid", "x-request-id"}) {
    const std::string_view value = response.header(name);
    if (!value.empty()) return value;
  }
  return {};
}

}  // namespace

std::string redact_url(std::string_view url, bool own) {
  const std::size_t host = after_scheme(url);
  const std::size_t host_end = std::min(url.find_first_of("/?#", host), url.size());
  std::string out(url.substr(0, host));
  const std::size_t user = url.substr(host, host_end - host).rfind('@');
  const std::size_t from = user == std::string_view::npos ? host : host + user + 1;
  const std::size_t question = url.find('?', from);
  out += url.substr(from, question == std::string_view::npos ? question : question - from);
  if (question == std::string_view::npos) return out;
  if (!own) return out + "?...";
  std::string_view query = url.substr(question + 1);
  char separator = '?';
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    const std::string_view name = pair.substr(0, pair.find('='));
    out += separator;
    separator = '&';
    if (harmless(name)) {
      out += pair;
    } else {
      out += name.size() < pair.size() ? std::string(name) + "=..." : "...";
    }
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return out;
}

Trace::Trace(const std::string& file, bool follow_links) {
  if (file.empty()) return;
  const int links = follow_links ? 0 : O_NOFOLLOW | O_NONBLOCK;
  fd_ = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | links, 0600);
  struct stat found {};
  const bool own = follow_links || (fd_ >= 0 && ::fstat(fd_, &found) == 0 &&
                                    S_ISREG(found.st_mode) && found.st_uid == ::geteuid());
  if (fd_ >= 0 && !own) ::close(std::exchange(fd_, -1));
}

Trace::~Trace() {
  if (fd_ >= 0) ::close(fd_);
}

void Trace::write(const Line& line) {
  if (!on()) return;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  std::string_view range;
  for (const Header& header : line.request->headers) {
    if (lower(header.name) == "range" || lower(header.name) == "x-ms-range") range = header.value;
  }
  char numbers[160];
  std::snprintf(numbers, sizeof numbers,
                " status=%d bytes=%llu ms=%.1f first_byte_ms=%.1f connection=%lld%s retry=%d",
                line.response->status, static_cast<unsigned long long>(line.bytes),
                line.response->seconds * 1000, line.response->waited * 1000,
                static_cast<long long>(line.connection), line.reused ? "" : "(new)", line.retry);
  char millis[32];
  std::snprintf(millis, sizeof millis, ".%03ldZ", now.tv_nsec / 1'000'000);
  std::string text = format_utc(now.tv_sec, "%Y-%m-%dT%H:%M:%S") + millis + " " +
                     std::to_string(::getpid()) + " " + line.request->method + " " +
                     word(redact_url(line.request->url, line.request->own_query)) +
                     " range=" + word(range) + numbers +
                     " request_id=" + word(request_id(*line.response));
  if (!line.error.empty()) text += " error=" + word(line.error);
  text += '\n';
  // One call per line: with O_APPEND lines of several threads and processes stay whole.
  [[maybe_unused]] const ssize_t written = ::write(fd_, text.data(), text.size());
}

}  // namespace streamer::http

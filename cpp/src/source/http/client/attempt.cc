#include "source/http/client/attempt.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/segments.h"
#include "base/text.h"
#include "source/http/client/bandwidth.h"
#include "source/http/client/retry.h"

namespace streamer::http {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kErrorTextLimit = 64 << 10;  // of the body of an error or a redirect
constexpr std::size_t kHeaderLimit = 256 << 10;
constexpr std::size_t kLeastRoom = 16 << 10;

bool good(const Response& response) { return response.status >= 200 && response.status <= 299; }

// The coding of the content, or of the stored object that the server decodes on the fly; empty:
// none.
std::string coding_of(const Response& response) {
  for (const char* name : {"content-encoding", "x-goog-stored-content-encoding"}) {
    std::string coding = lower(response.header(name));
    // "aws-chunked" is a coding of uploads that stores keep by mistake.
    if (!coding.empty() && coding != "identity" && coding != "aws-chunked") return coding;
  }
  return {};
}

}  // namespace

bool Attempt::begin_response(std::string_view line) {
  response->headers.clear();
  response->body.clear();
  response->status = 0;
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return false;
  std::from_chars(line.data() + space + 1, line.data() + line.size(), response->status);
  return response->status > 0;
}

bool Attempt::end_header() {
  if (!good(*response)) return true;
  if (const std::string coding = coding_of(*response); !coding.empty()) {
    abort = Status::error(Code::kUnsupported,
                          "the response is compressed (content encoding " + coding + ")")
                .with_hint(
                    "Store the object without Content-Encoding: it is read in parts, as it is "
                    "stored");
    return false;
  }
  if (body == nullptr) return true;
  if (body->accept) {
    abort = body->accept(*response);
    if (!abort.ok()) return false;
  }
  to_memory_ = !body->segments.empty() || body->cut_when_full;
  to_skip_ = body->skip;
  return true;
}

bool Attempt::header(std::string_view line) {
  header_bytes_ += line.size();
  if (header_bytes_ > kHeaderLimit) {
    abort = Status::error(Code::kIo, "the header of the response is too long");
    return false;
  }
  if (line.starts_with("HTTP/")) return begin_response(line);
  line = trim(line);
  if (line.empty()) return end_header();
  const std::size_t colon = line.find(':');
  if (colon != std::string_view::npos) {
    response->headers.push_back(
        {lower(trim(line.substr(0, colon))), std::string(trim(line.substr(colon + 1)))});
  }
  return true;
}

// The memory for the next bytes; a gap has no address.
iovec Attempt::target() const { return behind(body->segments[segment_], segment_position_); }

std::span<char> Attempt::room() const {
  if (!fills_memory()) return {};
  const iovec next = target();
  const bool last = segment_ + 1 == body->segments.size();
  if (is_gap(next) || (next.iov_len < kLeastRoom && !last)) return {};
  return {static_cast<char*>(next.iov_base), next.iov_len};
}

bool Attempt::aborted() const {
  return body != nullptr && body->progress != nullptr &&
         body->progress->aborted.load(std::memory_order_relaxed);
}

void Attempt::advance(std::size_t size) {
  body->received += size;
  if (body->sum != nullptr) {  // only if there are no gaps
    const auto* const data = static_cast<const std::byte*>(target().iov_base);
    body->sum->value = body->sum->add(std::span(data, size), body->sum->value);
    body->sum->size += size;
  }
  if (body->progress != nullptr) {
    body->progress->received.fetch_add(size, std::memory_order_relaxed);
  }
  unreported_ += size;
  if (unreported_ >= kArrival) {
    unreported_ = 0;
    transport->retries.arrived();
  }
  segment_position_ += size;
  if (segment_position_ == body->segments[segment_].iov_len) {
    ++segment_;
    segment_position_ = 0;
  }
}

// Copies to the caller's memory; false when there is more than it holds.
bool Attempt::store(const char* data, std::size_t size) {
  if (to_skip_ > 0) {
    const std::size_t dropped = std::min<std::uint64_t>(to_skip_, size);
    to_skip_ -= dropped;
    data += dropped;
    size -= dropped;
  }
  while (size > 0) {
    if (!fills_memory()) return false;
    const iovec next = target();
    const std::size_t part = std::min(size, next.iov_len);
    if (!is_gap(next)) std::memcpy(next.iov_base, data, part);
    advance(part);
    data += part;
    size -= part;
  }
  return true;
}

bool Attempt::stored(std::size_t size) {
  bytes += size;
  advance(size);
  if (body->cut_when_full && full()) {
    ended_early = true;
    return false;
  }
  return go_on(size);
}

bool Attempt::write(const char* data, std::size_t size) {
  bytes += size;
  if (to_memory_) {
    const bool fits = store(data, size);
    if (body->cut_when_full && full()) {
      ended_early = true;
      return false;
    }
    if (!fits) {
      abort = Status::error(Code::kIo, "the server sent more bytes than were asked for");
      return false;
    }
  } else {
    const std::size_t limit = good(*response) ? text_limit_ : kErrorTextLimit;
    const std::size_t part = std::min(size, limit - std::min(limit, response->body.size()));
    response->body.append(data, part);
    if (part < size) {
      ended_early = !good(*response);  // the text of an error stands at its front
      if (!ended_early) {
        abort = Status::error(Code::kIo, "the response has more than " + std::to_string(limit) +
                                             " bytes, which is more than is read of it");
      }
      return false;
    }
  }
  return go_on(size);
}

bool Attempt::go_on(std::size_t size) {
  if (transport->settings.max_bandwidth > 0 && !pause(size)) return false;
  return !transport->cancel.cancelled();
}

bool Attempt::pause(std::size_t size) {
  const auto wait = book_bandwidth(size, transport->settings.max_bandwidth);
  if (wait < milliseconds(1)) return true;
  paused += wait;
  return transport->sleep(std::chrono::ceil<milliseconds>(wait));
}

bool StallWatch::stalled(Attempt* attempt) {
  if (settings_.low_speed_seconds <= 0) return false;
  const Clock::time_point now = Clock::now();
  window_ += std::exchange(attempt->paused, {});
  const int begin = attempt->bytes == 0 ? attempt->begin_seconds : 0;
  const int allowed = std::max(settings_.low_speed_seconds, begin);
  if (now - window_ < std::chrono::seconds(allowed)) return false;
  const std::uint64_t least = static_cast<std::uint64_t>(settings_.low_speed_bytes) *
                              static_cast<std::uint64_t>(settings_.low_speed_seconds);
  if (attempt->bytes - window_bytes_ < least) return true;
  window_ = now;
  window_bytes_ = attempt->bytes;
  return false;
}

}  // namespace streamer::http

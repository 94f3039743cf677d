#include "source/http/range_read.h"

#include <algorithm>

#include "base/segments.h"
#include "base/text.h"
#include "source/http/error_status.h"

namespace streamer::http {
namespace {

constexpr std::uint64_t kShortDocument = 64 << 10;

std::optional<std::uint64_t> number(std::string_view text) { return parse_number(trim(text)); }

// A page of a proxy, or of a login: text that no store sends for a range, and without a validator
// of an object.
bool is_page(const Response& response) {
  const std::string type = lower(response.header("content-type"));
  const auto is = [&](std::string_view other) { return type.starts_with(other); };
  return response.header("etag").empty() &&
         (is("text/html") || is("application/xml") || is("application/json"));
}

Status wrong(std::string message) { return Status::error(Code::kIo, std::move(message)); }

}  // namespace

std::optional<ContentRange> parse_content_range(std::string_view value) {
  value = trim(value);
  if (!value.starts_with("bytes")) return std::nullopt;
  value = trim(value.substr(5));
  const std::size_t slash = value.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  ContentRange range;
  const std::string_view span = trim(value.substr(0, slash));
  const std::string_view total = trim(value.substr(slash + 1));
  if (total != "*" && !(range.total = number(total))) return std::nullopt;
  if (span == "*") return range;
  const std::size_t dash = span.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  range.first = number(span.substr(0, dash));
  range.last = number(span.substr(dash + 1));
  if (!range.first || !range.last || *range.last < *range.first) return std::nullopt;
  return range;
}

std::vector<iovec> first_bytes(std::span<const iovec> segments, std::uint64_t bytes) {
  std::vector<iovec> first;
  for (iovec segment : segments) {
    if (bytes == 0) break;
    segment.iov_len = std::min<std::uint64_t>(segment.iov_len, bytes);
    bytes -= segment.iov_len;
    first.push_back(segment);
  }
  return first;
}

RangeRead::RangeRead(Protocol& protocol, const Location& location, std::uint64_t offset,
                     std::span<const iovec> segments, std::optional<std::uint64_t> object_size,
                     Version version)
    : protocol_(protocol),
      location_(location),
      offset_(offset),
      size_(0),
      object_size_(object_size),
      version_(std::move(version)) {
  for (const iovec& segment : segments) {
    if (segment.iov_len == 0) continue;
    segments_.push_back(segment);
    size_ += segment.iov_len;
  }
  body_.accept = [this](const Response& response) { return accept(response); };
}

std::optional<ByteRange> RangeRead::missing() const {
  if (done_ >= size_) return std::nullopt;
  return ByteRange{offset_ + done_, size_ - done_};
}

BodySink* RangeRead::next_body() {
  other_snapshot_ = foreign_ = false;
  promised_ = 0;
  body_.segments = segments_;
  body_.skip = 0;
  body_.cut_when_full = false;
  body_.received = 0;
  return &body_;
}

std::uint64_t RangeRead::take() {
  const std::uint64_t received = std::exchange(body_.received, 0);
  done_ += received;
  promised_ -= std::min(promised_, received);
  std::uint64_t left = received;
  std::size_t whole = 0;
  while (whole < segments_.size() && left >= segments_[whole].iov_len) {
    left -= segments_[whole++].iov_len;
  }
  segments_.erase(segments_.begin(), segments_.begin() + static_cast<std::ptrdiff_t>(whole));
  if (left > 0) segments_.front() = behind(segments_.front(), left);
  return received;
}

bool RangeRead::read_by_id(bool gone) {
  if (version_.by_id || version_.id.empty()) return false;
  version_.by_id = true;
  gone_ = gone;
  return true;
}

Status RangeRead::accept(const Response& response) {
  other_snapshot_ = !protocol_.same_snapshot(location_, response);
  if (other_snapshot_) {
    return Status::error(Code::kChanged, "the files changed while they were read");
  }
  const bool anonymous = protocol_.version_of(response).validator.empty();
  if (!version_.validator.empty() && anonymous && is_html(response)) {
    return sent_a_page(response, "object");
  }
  if (response.status == 206) return accept_part(response);
  if (response.status == 200) return accept_whole(response);
  return wrong("the server responded with a status that makes no sense for a range");
}

Status RangeRead::learn(std::optional<std::uint64_t> total, const Response& response) {
  Version version = protocol_.version_of(response);
  if (!version_.validator.empty() && !version.validator.empty() &&
      version.validator != version_.validator) {
    return Status::error(Code::kChanged, "the object was replaced while it was read");
  }
  if (object_size_ && total && *total != *object_size_) {
    return Status::error(Code::kChanged, "the object's size changed while it was read");
  }
  if (version_.validator.empty()) version_.validator = std::move(version.validator);
  if (version_.id.empty()) version_.id = std::move(version.id);
  if (!object_size_) {
    if (!total) return wrong("the server does not tell the object's size");
    object_size_ = total;
    size_ = std::min(size_, *total > offset_ ? *total - offset_ : 0);
  }
  return {};
}

Status RangeRead::accept_part(const Response& response) {
  const auto range = parse_content_range(response.header("content-range"));
  // Some servers respond so for an empty object. The caller sees that nothing came.
  if (!object_size_ && response.header("content-length") == "0") return {};
  if (!range || !range->first) return wrong("the response has no usable Content-Range");
  if (*range->first != offset_ + done_ || *range->last >= offset_ + size_) {
    return wrong("the server sent another range than the one asked for (" +
                 std::string(response.header("content-range")) + ")");
  }
  const auto length = number(response.header("content-length"));
  if (length && *length != *range->last - *range->first + 1) {
    return wrong("Content-Length and Content-Range of the response do not agree");
  }
  promised_ = *range->last - *range->first + 1;
  return learn(range->total, response);
}

Status RangeRead::accept_whole(const Response& response) {
  const auto length = number(response.header("content-length"));
  const bool other = object_size_ ? length != object_size_ : protocol_.whole_read_limit() == 0;
  if (other && is_page(response)) {
    if (is_html(response) || !length || *length > kShortDocument) {
      return sent_a_page(response, "object");
    }
    foreign_ = true;
    body_.segments = {};
    return {};
  }
  if (Status status = learn(length ? length : object_size_, response); !status.ok()) return status;
  promised_ = size_ - done_;
  const std::uint64_t first = offset_ + done_;
  if (first == 0 && size_ == *object_size_) return {};  // the whole object was asked for
  if (*object_size_ > protocol_.whole_read_limit()) {
    return Status::error(Code::kUnsupported, "the server ignores ranges")
        .with_hint("It must support Range requests (HTTP status 206)");
  }
  body_.skip = first;
  body_.cut_when_full = true;
  return {};
}

}  // namespace streamer::http

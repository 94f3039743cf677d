#include "source/http/content_samples.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/segments.h"
#include "base/text.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

constexpr std::size_t kSampleBytes = 1024;
constexpr std::size_t kMostSamples = 16;

// The time that ETags of the form "TIME-SIZE", in hexadecimal seconds, begin with.
std::optional<std::uint64_t> time_of_etag(std::string_view etag) {
  if (!etag.starts_with('"')) return std::nullopt;
  etag.remove_prefix(1);
  const std::size_t end = etag.find('-');
  if (end == std::string_view::npos) return std::nullopt;
  return parse_number(etag.substr(0, end), 16);
}

}  // namespace

bool pins_content(const Version& version, const Response& response) {
  if (version.validator.empty() || version.validator.starts_with("W/")) return false;
  const std::string_view modified = response.header("last-modified");
  const auto written = parse_http_date(modified);
  const auto now = parse_http_date(response.header("date"));
  if (!written || !now || *written < *now) return true;
  const bool by_time = version.validator == modified ||
                       time_of_etag(version.validator) == static_cast<std::uint64_t>(*written);
  return !by_time;
}

ContentSamples::ContentSamples(std::span<const std::byte> prefix) {
  if (prefix.empty()) return;
  const std::size_t size = std::min(prefix.size(), kSampleBytes);
  const auto last = prefix.last(size);
  kept_.push_back({prefix.size() - size, {last.begin(), last.end()}});
}

std::optional<ContentSamples::Sample> ContentSamples::next() {
  const MutexLock lock(mutex_);
  if (kept_.empty()) return std::nullopt;
  return kept_[random_() % kept_.size()];
}

void ContentSamples::keep(std::uint64_t offset, std::span<const iovec> segments) {
  for (const iovec& segment : segments) {
    if (segment.iov_len == 0 || is_gap(segment)) {
      offset += segment.iov_len;
      continue;
    }
    const auto* const data = static_cast<const std::byte*>(segment.iov_base);
    Sample sample{offset, {data, data + std::min(segment.iov_len, kSampleBytes)}};
    const MutexLock lock(mutex_);
    if (std::exchange(prefix_only_, false)) kept_.clear();
    if (kept_.size() < kMostSamples) {
      kept_.push_back(std::move(sample));
    } else {
      kept_[slot_++ % kMostSamples] = std::move(sample);
    }
    return;
  }
}

}  // namespace streamer::http

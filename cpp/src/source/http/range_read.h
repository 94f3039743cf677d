// Reading one range of one object, in as many responses as it takes.
#pragma once

#include <sys/uio.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "source/http/client/connection.h"
#include "source/http/protocol.h"

namespace streamer::http {

// "bytes 0-9/100", "bytes 0-9/*" or "bytes */100".
struct ContentRange {
  std::optional<std::uint64_t> first, last, total;
};
std::optional<ContentRange> parse_content_range(std::string_view value);

// The first `bytes` of `segments`.
std::vector<iovec> first_bytes(std::span<const iovec> segments, std::uint64_t bytes);

// The state of a range that is being read: the bytes that have arrived, the known facts of the
// object, and the check of the last response.
class RangeRead {
 public:
  // Reads [offset, offset + size of segments). Size and version of an object that is not known yet
  // are taken from the first response; a range may then end with the object. `location` and
  // `protocol` outlive it.
  RangeRead(Protocol& protocol, const Location& location, std::uint64_t offset,
            std::span<const iovec> segments, std::optional<std::uint64_t> object_size,
            Version version);

  // The missing bytes, before an attempt and after it; none when all are there.
  std::optional<ByteRange> missing() const;
  // The body for the next attempt, which receives the missing bytes.
  BodySink* next_body();
  // This read may be aborted from now on.
  void watch(ReadProgress* progress) { body_.progress = progress; }
  // `sum` is of all bytes that this read receives.
  void add_up(RunningSum* sum) { body_.sum = sum; }
  bool aborted() const { return body_.progress != nullptr && body_.progress->aborted; }
  // Counts the bytes of the attempt, and returns their number.
  std::uint64_t take();

  std::uint64_t received() const { return done_; }
  std::optional<std::uint64_t> object_size() const { return object_size_; }
  const Version& version() const { return version_; }
  // Requests the version by its id from now on, since the object is `gone` or was replaced. False
  // if there is none, or that was done.
  bool read_by_id(bool gone);
  // True if nothing had the name of the object when its version was first requested by its id.
  bool gone() const { return gone_; }
  // True if the last response was a short document instead of the object, which may be an error.
  bool foreign() const { return foreign_; }
  // True if the body of the last response ended before the range that its header describes.
  bool cut_off() const { return promised_ > 0; }
  // True if the last response was of another snapshot; see Protocol::same_snapshot().
  bool other_snapshot() const { return other_snapshot_; }

 private:
  Status accept(const Response& response);
  Status accept_part(const Response& response);
  Status accept_whole(const Response& response);
  Status learn(std::optional<std::uint64_t> total, const Response& response);

  Protocol& protocol_;
  const Location& location_;
  const std::uint64_t offset_;
  std::uint64_t size_;
  std::uint64_t done_ = 0;
  std::uint64_t promised_ = 0;  // bytes that the last response has still to bring
  std::optional<std::uint64_t> object_size_;
  Version version_;
  bool other_snapshot_ = false;
  bool foreign_ = false;
  bool gone_ = false;
  std::vector<iovec> segments_;  // of the missing bytes
  BodySink body_;
};

}  // namespace streamer::http

// One attempt at a request: the state of its callbacks, and the memory for the response's bytes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "source/http/client/connection.h"
#include "source/http/client/request.h"
#include "streamer/status.h"

namespace streamer::http {

class Attempt {
 public:
  // All outlive it; `body` may be null.
  Attempt(Transport* the_transport, Response* to, BodySink* into, const Request& request = {})
      : transport(the_transport),
        response(to),
        body(into),
        begin_seconds(request.begin_seconds),
        text_limit_(request.text_limit) {}

  // One line of the header, the empty one at its end included. False: `abort` has the reason.
  bool header(std::string_view line);
  // Bytes of the body. False: the transfer ends here, well if `ended_early`, else see `abort`.
  bool write(const char* data, std::size_t size);
  // Memory that the next bytes of the body may be received into as they are, for which `stored`
  // then stands in for `write`; empty if there is none, or so little that a copy costs less than
  // a system call for it.
  std::span<char> room() const;
  // True if the next bytes of the body go to memory of the caller, by `room` or by a copy.
  bool fills_memory() const { return to_memory_ && to_skip_ == 0 && !full(); }
  bool stored(std::size_t size);
  // True if the read was asked to end.
  bool aborted() const;

  Transport* const transport;
  Response* const response;
  BodySink* const body;
  const int begin_seconds;
  Status abort;              // the reason if it was ended from here
  bool ended_early = false;  // it has all that it wanted
  std::uint64_t bytes = 0;   // of bodies, all that arrived
  Clock::duration paused{};  // on behalf of the bandwidth cap, since the last look

 private:
  bool begin_response(std::string_view line);
  bool end_header();
  bool store(const char* data, std::size_t size);
  iovec target() const;
  void advance(std::size_t size);
  bool full() const { return segment_ == body->segments.size(); }
  bool pause(std::size_t size);
  bool go_on(std::size_t size);

  const std::size_t text_limit_;
  bool to_memory_ = false;
  std::size_t header_bytes_ = 0;
  std::size_t segment_ = 0;  // of the next byte
  std::size_t segment_position_ = 0;
  std::uint64_t to_skip_ = 0;
  std::uint64_t unreported_ = 0;  // bytes; see RetryBudget::arrived()
};

// The interval at which a silent transfer is looked at.
inline constexpr std::chrono::milliseconds kTick{100};

// Shows in the trace.
inline constexpr const char* kStragglerMessage = "straggler: far slower than other reads";

// Tells an attempt that has stalled: slower than the settings allow, for as long as they allow.
class StallWatch {
 public:
  explicit StallWatch(const TransportSettings& settings) : settings_(settings) {}
  bool stalled(Attempt* attempt);
  void restart() { window_ = Clock::now(); }

 private:
  const TransportSettings& settings_;
  Clock::time_point window_ = Clock::now();
  std::uint64_t window_bytes_ = 0;
};

}  // namespace streamer::http

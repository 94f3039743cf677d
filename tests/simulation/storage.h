// A storage in virtual time: connections that share a link, and what goes wrong with them.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "base/clock.h"
#include "engine/plan.h"

namespace streamer::simulation {

using TimePoint = Clock::time_point;

inline Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

// How a storage behaves. Rates are in bytes per second, times in seconds, the rest are
// probabilities of each request.
struct StorageModel {
  double link_rate = 1.25e9;
  double connection_rate = 90e6;
  double round_trip = 0.002;
  double first_byte = 0.01;        // after the round trip
  double first_byte_tail = 0;      // part of the requests that wait ten times as long
  double requests_per_second = 0;  // above this rate requests are refused (503); 0: without limit
  double reset = 0;                // the connection breaks in the middle of the body
  double short_body = 0;           // the response ends early
  double stall = 0;                // the body pauses for `stall_seconds`
  double stall_seconds = 2;
  double failure = 0;  // an error that no retry mends
  double slow = 0;     // part of the connections with `slow_rate`
  double slow_rate = 20e3;
  double trickle = 0;  // part of the responses that come with `trickle_rate`
  double trickle_rate = 20e3;
  int addresses = 1;
  int dead_addresses = 0;  // that do not accept connections
  double connect_timeout = 3;
};

// The reads in flight. Each worker has one connection, which it keeps.
class Storage {
 public:
  Storage(const StorageModel& model, std::uint64_t seed) : model_(model), random_(seed) {}

  // A worker begins to read a chunk.
  void begin(WorkerId worker, Chunk chunk, TimePoint now);

  struct Ended {
    WorkerId worker;
    Chunk chunk;
    Status status;
    ReadReport report;
  };
  // The time of the next event; none if nothing is in flight.
  std::optional<TimePoint> next_event() const;
  // Moves all reads on to `now`, which is at most the next event. Returns those that ended.
  std::vector<Ended> advance(TimePoint now);
  // Reads that were told to end do so soon. To be called after every decision.
  void look_for_cuts(TimePoint now);
  // All reads end soon, with an error.
  void cancel(TimePoint now);

  // How many requests were refused.
  std::shared_ptr<const std::atomic<std::uint64_t>> refusals() const { return refusals_; }
  std::size_t active() const { return flows_.size(); }
  std::uint64_t attempts() const { return attempts_; }
  // How long one worker alone would take for one read of `bytes` at the worst, in seconds.
  double longest_read(std::uint64_t bytes) const;

 private:
  enum class State { kWaiting, kReceiving, kStalled };
  struct Connection {
    bool open = false;
    double rate = 0;
  };
  struct Flow {
    WorkerId worker = 0;
    Chunk chunk;
    State state = State::kWaiting;
    TimePoint until;       // of kWaiting and kStalled
    double rate = 0;       // of kReceiving
    double received = 0;   // bytes
    double next_mark = 0;  // bytes at which something happens
    bool trickles = false;
    bool breaks = false;   // at the mark: the connection ends
    bool closes = false;   // with it goes the connection
    bool stalls = false;   // at the mark: a pause
    bool refused = false;  // the response is a 503
    bool fails = false;    // for good
    bool cut = false;      // ends at `until`
    bool retries = false;  // waits for the next attempt
    int attempt = 0;
    TimePoint began;
    ReadReport report;
  };

  bool chance(double probability);
  double uniform(double low, double high);
  void start_attempt(Flow* flow, TimePoint now);
  void retry(Flow* flow, TimePoint now);
  bool throttled(TimePoint now);
  void open_connection(WorkerId worker, double* wait);
  void share_link();
  bool reach(Flow* flow, TimePoint now);  // an event of the flow is due; true: it ended
  static std::uint64_t missing(const Flow& flow);

  const StorageModel model_;
  std::mt19937_64 random_;
  std::vector<Flow> flows_;
  std::vector<Connection> connections_;  // by worker
  std::deque<TimePoint> requests_;       // of the last second
  TimePoint now_{};
  std::uint64_t attempts_ = 0;
  std::shared_ptr<std::atomic<std::uint64_t>> refusals_ =
      std::make_shared<std::atomic<std::uint64_t>>(0);
  bool cancelled_ = false;
};

}  // namespace streamer::simulation

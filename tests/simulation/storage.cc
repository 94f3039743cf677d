#include "storage.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace streamer::simulation {
namespace {

constexpr double kNoticed = 0.005;  // seconds until a read sees that it was told to end
constexpr int kSureAttempt = 6;     // from then on nothing goes wrong: the model must end, too
constexpr double kHalfByte = 0.5;

}  // namespace

bool Storage::chance(double probability) { return probability > 0 && uniform(0, 1) < probability; }

double Storage::uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random_);
}

double Storage::longest_read(std::uint64_t bytes) const {
  double slowest = model_.slow > 0 ? model_.slow_rate : model_.connection_rate / 4;
  if (model_.trickle > 0) slowest = std::min(slowest, model_.trickle_rate);
  const double wait = 10 * model_.first_byte + 2 * model_.round_trip + model_.connect_timeout;
  return static_cast<double>(bytes) / std::min(slowest, model_.link_rate) +
         (kSureAttempt + 1) * (wait + model_.stall_seconds + 10);
}

std::uint64_t Storage::missing(const Flow& flow) {
  const auto received = static_cast<std::uint64_t>(flow.received + kHalfByte);
  return flow.chunk.size - std::min(received, flow.chunk.size);
}

void Storage::begin(WorkerId worker, Chunk chunk, TimePoint now) {
  if (connections_.size() <= static_cast<std::size_t>(worker)) connections_.resize(worker + 1);
  Flow flow;
  flow.worker = worker;
  flow.chunk = std::move(chunk);
  flow.began = now;
  start_attempt(&flow, now);
  flows_.push_back(std::move(flow));
  share_link();
}

void Storage::open_connection(WorkerId worker, double* wait) {
  Connection& connection = connections_[worker];
  for (;;) {
    *wait += 2 * model_.round_trip;
    const auto address = static_cast<int>(uniform(0, model_.addresses));
    if (address >= model_.dead_addresses) break;
    *wait += model_.connect_timeout;
  }
  connection.open = true;
  connection.rate =
      chance(model_.slow) ? model_.slow_rate : model_.connection_rate * uniform(0.7, 1.3);
}

bool Storage::throttled(TimePoint now) {
  if (model_.requests_per_second <= 0) return false;
  while (!requests_.empty() && now - requests_.front() > std::chrono::seconds(1)) {
    requests_.pop_front();
  }
  if (static_cast<double>(requests_.size()) >= model_.requests_per_second) return true;
  requests_.push_back(now);
  return false;
}

void Storage::start_attempt(Flow* flow, TimePoint now) {
  ++attempts_;
  ++flow->attempt;
  const bool sure = flow->attempt >= kSureAttempt;
  double wait = 0;
  const bool fresh = !connections_[flow->worker].open;
  if (fresh) open_connection(flow->worker, &wait);
  ReadProgress* const progress = flow->chunk.progress.get();
  if (progress != nullptr) {
    progress->fresh = fresh;
    progress->pausing = false;
  }
  wait += model_.round_trip + model_.first_byte * (chance(model_.first_byte_tail) ? 10 : 1);
  flow->report.waited += wait;
  flow->state = State::kWaiting;
  flow->until = now + seconds(wait);
  flow->retries = false;
  flow->fails = chance(model_.failure);
  flow->refused = !sure && throttled(now);
  flow->breaks = flow->closes = flow->stalls = false;
  flow->trickles = !sure && chance(model_.trickle);
  const auto size = static_cast<double>(flow->chunk.size);
  flow->next_mark = size;
  if (sure) return;
  if (chance(model_.reset)) flow->breaks = flow->closes = true;
  if (chance(model_.short_body)) flow->breaks = true;
  if (!flow->breaks && chance(model_.stall)) flow->stalls = true;
  if (flow->breaks || flow->stalls) {
    flow->next_mark = std::floor(uniform(flow->received, size));
  }
}

void Storage::retry(Flow* flow, TimePoint now) {
  ++flow->report.retries;
  if (flow->chunk.progress) flow->chunk.progress->pausing = true;
  flow->state = State::kWaiting;
  flow->retries = true;
  flow->until = now + seconds(uniform(0.01, 0.1) * (1 << std::min(flow->attempt, 6)));
}

// Every read gets the rate of its connection, or an equal share of the link.
void Storage::share_link() {
  std::vector<Flow*> receiving;
  for (Flow& flow : flows_) {
    if (flow.state != State::kReceiving || flow.cut) continue;
    flow.rate = flow.trickles ? model_.trickle_rate : connections_[flow.worker].rate;
    receiving.push_back(&flow);
  }
  double left = model_.link_rate;
  double wanted = 0;
  for (const Flow* flow : receiving) wanted += flow->rate;
  if (wanted <= left) return;
  std::sort(receiving.begin(), receiving.end(),
            [](const Flow* one, const Flow* other) { return one->rate < other->rate; });
  for (std::size_t i = 0; i < receiving.size(); ++i) {
    receiving[i]->rate =
        std::min(receiving[i]->rate, left / static_cast<double>(receiving.size() - i));
    left -= receiving[i]->rate;
  }
}

std::optional<TimePoint> Storage::next_event() const {
  std::optional<TimePoint> first;
  for (const Flow& flow : flows_) {
    TimePoint time = flow.until;
    if (flow.state == State::kReceiving && !flow.cut) {
      // One tick more, so that rounding leaves nothing.
      time = now_ + seconds(std::max(0.0, flow.next_mark - flow.received) / flow.rate) +
             Clock::duration(1);
    }
    if (!first || time < *first) first = time;
  }
  return first;
}

bool Storage::reach(Flow* flow, TimePoint now) {
  if (flow->cut) {
    if (flow->until > now) return false;
    flow->report.missing = missing(*flow);
    connections_[flow->worker].open = false;
    return true;
  }
  if (flow->state == State::kReceiving) {
    if (flow->received + kHalfByte < flow->next_mark) return false;
    flow->received = flow->next_mark;
    if (flow->chunk.progress) {
      flow->chunk.progress->received = static_cast<std::uint64_t>(flow->received);
    }
    if (flow->stalls) {
      flow->stalls = false;
      flow->state = State::kStalled;
      flow->until = now + seconds(model_.stall_seconds);
      flow->next_mark = static_cast<double>(flow->chunk.size);
      return false;
    }
    if (missing(*flow) == 0) return true;
    if (flow->closes) connections_[flow->worker].open = false;
    retry(flow, now);
    return false;
  }
  if (flow->until > now) return false;
  if (flow->retries) {
    start_attempt(flow, now);
  } else if (flow->fails) {
    return true;
  } else if (flow->refused) {
    ++*refusals_;
    retry(flow, now);
  } else {
    flow->state = State::kReceiving;
  }
  return false;
}

std::vector<Storage::Ended> Storage::advance(TimePoint now) {
  const double passed = seconds_between(now_, now);
  now_ = now;
  std::vector<Ended> ended;
  bool changed = false;
  for (std::size_t i = 0; i < flows_.size();) {
    Flow& flow = flows_[i];
    if (flow.state == State::kReceiving && !flow.cut) {
      flow.received = std::min(flow.next_mark, flow.received + flow.rate * passed);
      if (flow.chunk.progress) {
        flow.chunk.progress->received = static_cast<std::uint64_t>(flow.received);
      }
    }
    const State before = flow.state;
    const bool end = reach(&flow, now);
    changed = changed || end || flow.state != before;
    if (!end) {
      ++i;
      continue;
    }
    Status status;
    if (cancelled_) {
      status = Status::error(Code::kCancelled, "the stream was closed");
    } else if (flow.fails && !flow.cut) {
      status = Status::error(Code::kIo, "the storage failed");
    }
    flow.report.seconds = seconds_between(flow.began, now);
    ended.push_back({flow.worker, std::move(flow.chunk), std::move(status), flow.report});
    if (i + 1 < flows_.size()) flows_[i] = std::move(flows_.back());
    flows_.pop_back();
  }
  if (changed) share_link();
  return ended;
}

void Storage::look_for_cuts(TimePoint now) {
  bool changed = false;
  for (Flow& flow : flows_) {
    if (flow.cut || !flow.chunk.progress || !flow.chunk.progress->aborted) continue;
    flow.cut = changed = true;
    flow.until = now + seconds(kNoticed);
  }
  if (changed) share_link();
}

void Storage::cancel(TimePoint now) {
  cancelled_ = true;
  for (Flow& flow : flows_) {
    flow.cut = true;
    flow.until = now + seconds(kNoticed);
  }
}

}  // namespace streamer::simulation

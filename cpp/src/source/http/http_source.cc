#include <algorithm>
#include <functional>
#include <optional>

#include "base/default_sizes.h"
#include "base/segments.h"
#include "base/settings.h"
#include "base/system.h"
#include "source/http/client/connection.h"
#include "source/http/client/proxy.h"
#include "source/http/client/retry.h"
#include "source/http/content_samples.h"
#include "source/http/error_status.h"
#include "source/http/factory.h"
#include "source/http/http_object.h"
#include "source/http/list_budget.h"
#include "source/http/protocol.h"
#include "source/http/range_read.h"
#include "source/http/snapshot.h"
#include "source/http/verifier.h"
#include "text/url.h"

namespace streamer {
namespace http {
namespace {

constexpr std::uint64_t kMostChunk = 32 << 20;
constexpr int kInitialConcurrency = 4;
constexpr int kMaxConcurrency = 1024;
constexpr int kDescriptors = 4;  // of one connection at most, if libcurl reads through a proxy
constexpr int kOpenConcurrency = 64;
// The first attempt at a small read (kHurry) or at a page of a list is aborted if it takes longer
// than most do, the second one at four times that.
constexpr int kHurryList = 20'000;  // milliseconds
constexpr int kHurriedAttempts = 2;
constexpr int kSlowBegin = 3;  // how many times as long as others a list may take to begin
constexpr std::uint64_t kSmallRead = 4 << 20;
constexpr int kAttemptsWhenNeverReached = 4;  // a wrong address should not take long to tell
constexpr std::chrono::seconds kNotListeningYet{15};  // what starts beside us may be late
constexpr std::uint64_t kProgress = 1 << 20;          // an attempt that brought this was no failure
constexpr int kMaxAgain = 5;
constexpr double kBytesOfGigabit = 1e9 / 8;

// As many as leave descriptors for the rest of the process.
int most_connections() {
  const std::uint64_t most = descriptor_limit() / 4 * 3 / kDescriptors;
  return static_cast<int>(std::clamp<std::uint64_t>(most, kInitialConcurrency, kMaxConcurrency));
}

struct HttpSourceSettings {
  Verify verify = Verify::kCheap;
  bool stragglers = false;         // see SourceTraits
  bool require_validator = false;  // refuse objects whose content can't be pinned
  double target_rate = 0;          // see SourceTraits

  static Result<HttpSourceSettings> read(const Settings& settings);
};

Result<HttpSourceSettings> HttpSourceSettings::read(const Settings& settings) {
  HttpSourceSettings out;
  const std::pair<const char*, bool*> switches[] = {
      {"RUNAI_STREAMER_ABORT_STRAGGLERS", &out.stragglers},
      {"RUNAI_STREAMER_HTTP_REQUIRE_VALIDATOR", &out.require_validator}};
  for (const auto& [name, value] : switches) {
    const auto set = settings.enabled(name);
    if (!set.ok()) return set.status();
    *value = *set;
  }
  const auto verify = settings.boolean("RUNAI_STREAMER_VERIFY_CHECKSUMS");
  if (!verify.ok()) return verify.status();
  if (*verify) out.verify = **verify ? Verify::kAll : Verify::kNone;
  const auto target = settings.integer("RUNAI_STREAMER_S3_TARGET_GBPS");
  if (!target) return target.status();
  out.target_rate = static_cast<double>(target->value_or(0)) * kBytesOfGigabit;
  return out;
}

class HttpSource : public Source {
 public:
  HttpSource(SourceKind kind, std::unique_ptr<Protocol> protocol, TransportSettings settings,
             const HttpSourceSettings& chosen, const SourceContext& context)
      : kind_(kind),
        chosen_(chosen),
        transport_(std::move(settings), context.cancel),
        protocol_(std::move(protocol)),
        budget_(context.budget),
        retried_(context.options.retried) {
    traits_.remote = true;
    traits_.chunk_bytes = kObjectChunk;
    traits_.max_chunk_bytes = kMostChunk;
    traits_.min_chunk_bytes = kLeastObjectChunk;
    traits_.window_bytes = kObjectWindow;
    traits_.initial_concurrency = kInitialConcurrency;
    traits_.max_concurrency = most_connections();
    traits_.open_concurrency = kOpenConcurrency;
    traits_.refusals = refusals_;
    traits_.target_rate = chosen.target_rate;
    traits_.reader_bytes = kPlainBytes + kTlsBytes;
    traits_.counted_by_reader = kTlsBytes;
    // Under a cap of bandwidth reads wait for one another, and not for their connections.
    traits_.stragglers = chosen.stragglers && transport_.settings.max_bandwidth == 0;
  }
  const SourceTraits& traits() const override { return traits_; }
  Result<std::unique_ptr<Reader>> make_reader() override;
  Proximity proximity() const override { return {transport_.latency}; }

  const char* name() const { return source_kind_name(kind_); }
  const HttpSourceSettings& chosen() const { return chosen_; }
  void describe(std::map<std::string, std::string>* notes) const override {
    snapshot_.describe(notes);
    if (const std::uint64_t objects = verified_; objects > 0) {
      (*notes)["checksums"] = std::to_string(objects) + " objects match those of the server";
    }
  }
  std::atomic<std::uint64_t>* verified() { return &verified_; }
  // Whether the storage has responded to any request.
  bool responded() const { return responded_.load(std::memory_order_relaxed); }
  void set_responded() { responded_.store(true, std::memory_order_relaxed); }
  // The storage asks to slow down.
  void refused() { refusals_->fetch_add(1, std::memory_order_relaxed); }
  // Takes note of an object that was opened. Not ok if the settings refuse it.
  Status note_opened(const Location& location, const Version& version, const Response& response);
  Transport& transport() { return transport_; }
  Protocol& protocol() { return *protocol_; }
  MemoryBudget* budget() { return budget_; }
  const std::function<void(const Retry&)>& retried() const { return retried_; }

 private:
  const SourceKind kind_;
  const HttpSourceSettings chosen_;
  Snapshot snapshot_;
  std::atomic<bool> responded_{false};
  std::atomic<std::uint64_t> verified_{0};  // objects
  const std::shared_ptr<std::atomic<std::uint64_t>> refusals_ =
      std::make_shared<std::atomic<std::uint64_t>>(0);
  Transport transport_;
  const std::unique_ptr<Protocol> protocol_;
  MemoryBudget* const budget_;
  const std::function<void(const Retry&)> retried_;  // may be empty
  SourceTraits traits_;
};

// One thing to ask for, however often it takes.
struct Operation {
  const Location& location;
  std::function<Result<Request>(const CredentialsRef&)> make;
  std::function<BodySink*()> body;  // for the next attempt; may be empty
  // Counts what an attempt has brought, in bytes; `done` if nothing is missing any more.
  std::function<std::uint64_t(bool* done)> progress;
  // After a refusal, or a response of another snapshot: whether `make` makes another request now.
  std::function<bool(const ServerError*)> changed;
  // Responses with an error status that are fine.
  std::function<bool(const Response&)> tolerate;
  ReadProgress* watched = nullptr;  // what is told of pauses
  int hurry_ms = 0;                 // of the first attempt, if others are to follow soon; 0: none
  bool begins_late = false;         // the server has to look for much before it responds
  // Whether the body of a response of success is something else than what was asked for.
  std::function<bool()> foreign = {};
  // Whether such a body ended too early: without a length, its end is that of the connection.
  std::function<bool()> cut_off = {};
};

class HttpReader : public Reader {
 public:
  explicit HttpReader(HttpSource& source)
      : source_(source),
        protocol_(source.protocol()),
        connection_(source.transport()),
        verifier_(source.chosen().verify, &protocol_, &connection_, source.verified()) {
    connection_.count_tls_in(source.budget());
  }

  Result<Opened> open(const std::string& path, std::span<std::byte> prefix) override {
    return open_listed(path, "", prefix);
  }
  Result<Opened> open_listed(const std::string& path, const std::string& version,
                             std::span<std::byte> prefix) override;
  Result<std::string> local_copy(const std::string& path, bool directory) override {
    return protocol_.local_copy(path, directory, connection_);
  }
  Status read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
              ReadReport* report) override;
  Status list(const std::string& prefix, bool recursive, const ListCallback& found) override;
  Result<Access> access(const std::string& path) override;

 private:
  Status execute(const Operation& operation, Response* response, ReadReport* report);
  Status execute(const Operation& operation, Response* response, ReadReport* report,
                 CredentialsRef* who);
  // `status` of a request for `location`, with the endpoint that was asked.
  Status from_endpoint(Status status, const Location& location, const CredentialsRef& who) const {
    if (status.ok() || status.code() == Code::kCancelled) return status;
    const char* hint = standard_hint(status);
    return std::move(status)
        .with_endpoint(protocol_.endpoint(location, who.get()).shown())
        .with_hint(hint);
  }
  int time_to_begin(Clock::duration failing) const;
  Status read_range(const Location& location, RangeRead* range, Response* response,
                    ReadReport* report, bool tolerate_416, int hurry_ms);
  Result<Opened> open_empty(Location location);
  Status compare_sample(const HttpObject& object, ReadReport* report);

  HttpSource& source_;
  Protocol& protocol_;
  Connection connection_;
  Verifier verifier_;
};

Status HttpReader::execute(const Operation& operation, Response* response, ReadReport* report) {
  CredentialsRef who;
  Status status = execute(operation, response, report, &who);
  return from_endpoint(std::move(status), operation.location, who);
}

Status HttpReader::execute(const Operation& operation, Response* response, ReadReport* report,
                           CredentialsRef* who) {
  Transport& transport = source_.transport();
  Backoff backoff(transport.settings.max_attempts);
  bool refreshed = false;
  int again = 0;
  Clock::time_point failing_since;  // the begin of the attempt that brought something last
  for (int attempt = 0;; ++attempt) {
    if (attempt > 0) ++report->retries;
    Result<CredentialsRef> credentials = protocol_.credentials(operation.location, connection_);
    if (!credentials.ok()) return credentials.status().with_path(operation.location.path);
    *who = *credentials;
    Result<Request> request = operation.make(*credentials);
    if (!request.ok()) return request.status();
    const int most = transport.settings.max_attempts;
    const bool last = most > 0 && attempt + 1 >= most;
    if (operation.hurry_ms > 0 && attempt < kHurriedAttempts && !last && request->timeout_ms == 0) {
      const int limit = operation.hurry_ms << (2 * attempt);
      const int given = transport.settings.request_timeout_ms;
      request->timeout_ms = given > 0 ? std::min(given, limit) : limit;
    }

    const Clock::time_point began = Clock::now();
    if (attempt == 0) failing_since = began;
    if (operation.begins_late) request->begin_seconds = time_to_begin(began - failing_since);
    TransferResult outcome = connection_.perform(
        *request, response, operation.body ? operation.body() : nullptr, attempt);
    report->seconds += response->seconds;
    report->waited += response->waited;
    bool done = false;
    if (operation.progress && operation.progress(&done) >= kProgress) {
      backoff.forgive();
      failing_since = began;
      transport.retries.progress();
    }
    // What breaks after the last byte does not matter, but a server that sends more does.
    if (done && (outcome.status.ok() || outcome.retry)) {
      transport.retries.progress();
      return {};
    }
    const bool good = response->status >= 200 && response->status <= 299;
    Status status = std::move(outcome.status);
    bool retry = outcome.retry;
    if (status.ok() && good && operation.cut_off && operation.cut_off()) {
      status = Status::error(Code::kShortRead, "the connection was closed within the body");
      retry = true;
    }
    if (status.code() == Code::kChanged && operation.changed && operation.changed(nullptr) &&
        ++again <= kMaxAgain) {
      continue;
    }
    if (status.code() == Code::kInvalid && *credentials) {  // which of them was not sent
      status = std::move(status).with_identity((*credentials)->identity);
    }
    const bool refused = status.ok() && !good;
    if ((outcome.unreachable || refused) &&
        protocol_.elsewhere(operation.location, *request, refused ? response : nullptr,
                            source_.responded()) &&
        ++again <= kMaxAgain) {
      continue;
    }
    if (status.ok()) source_.set_responded();
    std::chrono::milliseconds retry_after{0};
    if (status.ok()) {
      const bool foreign = good && operation.foreign && operation.foreign();
      if (!foreign && (good || (operation.tolerate && operation.tolerate(*response)))) {
        transport.retries.progress();
        return {};
      }
      const ServerError error = protocol_.read_error(operation.location, *response);
      if (foreign && error.server_code.empty()) return sent_a_page(*response, "object");
      status = to_status(error, *response, *credentials);
      if (error.decision == RetryDecision::kRetryAtOnce && ++again <= kMaxAgain) continue;
      if (operation.changed && operation.changed(&error) && ++again <= kMaxAgain) continue;
      if (error.decision == RetryDecision::kRefresh && !refreshed) {
        refreshed = true;
        protocol_.refused(operation.location, *credentials);
        continue;
      }
      retry = error.decision == RetryDecision::kRetry;
      if (error.code == Code::kThrottled) source_.refused();
      retry_after = parse_retry_after(response->header("retry-after"));
    }
    const Clock::time_point now = Clock::now();
    const std::chrono::milliseconds left = transport.retries.left(failing_since, now);
    const bool never = outcome.unreachable && !transport.reached.load(std::memory_order_relaxed);
    const bool late = never && outcome.refused && now - failing_since < kNotListeningYet;
    if (!retry || !backoff.another(never && !late ? kAttemptsWhenNeverReached : 0) ||
        left <= std::chrono::milliseconds(0)) {
      if (attempt == 0) return status;
      return std::move(status).with_attempts(attempt + 1);
    }
    if (operation.watched != nullptr) operation.watched->pausing = true;
    // However late the server wants it: the last attempt comes before the time is over.
    const std::chrono::milliseconds pause =
        std::min(backoff.pause(retry_after) + transport.retries.take(), left);
    if (source_.retried()) {
      Status reason = from_endpoint(std::move(status), operation.location, *credentials);
      reason = std::move(reason).with_path(operation.location.path);
      source_.retried()({.path = reason.detail().path,
                         .attempt = attempt + 1,
                         .pause = std::chrono::duration<double>(pause).count(),
                         .reason = reason});
    }
    const bool slept = transport.sleep(pause);
    if (operation.watched != nullptr) operation.watched->pausing = false;
    if (!slept) return transport.interrupted();
  }
}

// Seconds that the server may take to begin its response to a request that has been `failing` for
// so long: no longer than requests are retried, unless that is less than a stall takes.
int HttpReader::time_to_begin(Clock::duration failing) const {
  const TransportSettings& settings = source_.transport().settings;
  const auto left = std::chrono::ceil<std::chrono::seconds>(settings.retry_timeout - failing);
  const int least = settings.low_speed_seconds;
  return static_cast<int>(
      std::clamp<std::int64_t>(left.count(), least, std::int64_t{least} * kSlowBegin));
}

Status HttpReader::read_range(const Location& location, RangeRead* range, Response* response,
                              ReadReport* report, bool tolerate_416, int hurry_ms) {
  const auto replaced = [&](const ServerError* error) {
    if (error == nullptr) return range->other_snapshot();
    const bool gone = error->code == Code::kNotFound;
    return (gone || error->code == Code::kChanged) && range->read_by_id(gone);
  };
  Operation operation{
      .location = location,
      .make =
          [&](const CredentialsRef& credentials) {
            return protocol_.make_read(location, range->missing(), range->version(), credentials);
          },
      .body = [&] { return range->next_body(); },
      .progress =
          [&](bool* done) {
            const std::uint64_t bytes = range->take();
            *done = !range->missing() || range->aborted();
            return bytes;
          },
      .changed = replaced,
      .tolerate = [&](const Response& r) { return tolerate_416 && r.status == 416; },
      .watched = report->progress,
      .hurry_ms = hurry_ms,
      .foreign = [&] { return range->foreign(); },
      .cut_off = [&] { return range->cut_off(); }};
  // A server may send less than was asked for, as long as it sends something.
  while (range->missing() && !range->aborted()) {
    const std::uint64_t before = range->received();
    if (Status status = execute(operation, response, report); !status.ok()) return status;
    if (response->status == 416) return {};
    if (range->missing() && range->received() == before && !range->aborted()) {
      return Status::error(Code::kShortRead, "the server sent none of the bytes asked for");
    }
  }
  return {};
}

Result<Opened> HttpReader::open_listed(const std::string& path, const std::string& version,
                                       std::span<std::byte> prefix) {
  Result<Location> location = protocol_.locate(path, /*directory=*/false);
  if (!location.ok()) return location.status();
  std::byte one{};
  iovec target{&one, 1};  // the size comes with at least one byte
  if (!prefix.empty()) target = {prefix.data(), prefix.size()};
  Version listed = protocol_.listed_version(*location, version);
  listed.id = location->version_id;
  listed.by_id = !listed.id.empty();
  RangeRead range(protocol_, *location, 0, {&target, 1}, std::nullopt, std::move(listed));
  Response response;
  ReadReport report;
  Status status = read_range(*location, &range, &response, &report, /*tolerate_416=*/true,
                             source_.traits().stragglers ? kHurry : 0);
  const bool nothing =
      status.code() == Code::kShortRead && response.header("content-length") == "0";
  if (nothing || (status.ok() && response.status == 416)) {
    return open_empty(std::move(*location));
  }
  if (!status.ok()) return std::move(status).with_path(path);
  const std::uint64_t size = *range.object_size();
  const std::uint64_t prefix_size = prefix.empty() ? 0 : range.received();
  if (Status known = source_.note_opened(*location, range.version(), response); !known.ok()) {
    return std::move(known).with_path(path);
  }
  bool later = false;
  auto check = verifier_.make_check(response, size, prefix.first(prefix_size), &later);
  std::unique_ptr<ContentSamples> samples;
  if (!pins_content(range.version(), response)) {
    samples = std::make_unique<ContentSamples>(prefix.first(prefix_size));
  }
  auto object = std::make_shared<HttpObject>(std::move(*location), size, range.version(),
                                             std::move(check), later, std::move(samples));
  const iovec first{prefix.data(), prefix_size};
  if (Status known = verifier_.verify_opened(*object, first, response); !known.ok()) {
    return std::move(known).with_path(path).with_range(0, size);
  }
  return Opened{std::move(object), prefix_size};
}

// No range of an empty object can be asked for; the whole of it can.
Result<Opened> HttpReader::open_empty(Location location) {
  Response response;
  ReadReport report;
  BodySink body;
  body.accept = [](const Response& head) {
    if (head.header("content-length") == "0") return Status();
    return Status::error(Code::kIo, "the server refuses ranges of an object that is not empty");
  };
  Operation operation{.location = location,
                      .make =
                          [&](const CredentialsRef& credentials) {
                            return protocol_.make_read(location, std::nullopt, {}, credentials);
                          },
                      .body = [&] { return &body; },
                      .progress = {},
                      .changed = {},
                      .tolerate = {},
                      .watched = nullptr,
                      .hurry_ms = 0};
  if (Status status = execute(operation, &response, &report); !status.ok()) {
    return std::move(status).with_path(location.path);
  }
  Version version = protocol_.version_of(response);
  return Opened{std::make_shared<HttpObject>(std::move(location), 0, std::move(version), nullptr,
                                             false, nullptr),
                0};
}

Status HttpReader::read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
                        ReadReport* report) {
  const auto& known = static_cast<const HttpObject&>(object);
  const std::uint64_t size = total_bytes(segments);
  report->strategy = source_.name();
  if (size > object.size() || offset > object.size() - size) {
    return Status::error(Code::kShortRead, "the object ends before the range does; it has " +
                                               std::to_string(object.size()) + " bytes")
        .with_path(object.path())
        .with_range(offset, size);
  }
  const Version pinned = known.pinned();
  // While others read what follows: nobody waits for the answer.
  verifier_.ask(known);
  RangeRead range(protocol_, known.location(), offset, segments, object.size(), pinned);
  range.watch(report->progress);
  const bool everything = !has_gap(segments);  // else the object is not read as a whole
  RunningSum sum;
  if (everything && known.can_add_up(offset)) {
    sum.add = known.check()->adder();
    range.add_up(&sum);
  }
  Response response;
  // Nobody else watches the rest of a long header.
  const bool hurry =
      report->progress == nullptr && size <= kSmallRead && source_.traits().stragglers;
  Status status = read_range(known.location(), &range, &response, report, /*tolerate_416=*/false,
                             hurry ? kHurry : 0);
  report->missing = size - range.received();
  if (range.version().by_id && !known.names_version()) {
    if (status.ok()) {
      // A read that was aborted does not know whether the store gives the former version.
      if (!range.aborted()) known.note_replaced();
    } else if (!range.gone() || status.code() != Code::kNotFound) {
      status = replaced(std::move(status));
    }
  }
  if (status.ok() && everything) {
    const auto received = first_bytes(segments, range.received());
    status = verifier_.verify(known, offset, received, response, sum);
    if (!status.ok()) status = std::move(status).with_range(0, object.size());
  }
  if (status.ok() && known.samples() != nullptr) {
    status = compare_sample(known, report);
    // Only then, so that all samples are of the first content.
    if (status.ok()) known.samples()->keep(offset, first_bytes(segments, range.received()));
  }
  return std::move(status).with_path(object.path()).with_range(offset, size);
}

// Reads something again that an earlier read has brought.
Status HttpReader::compare_sample(const HttpObject& object, ReadReport* report) {
  const auto sample = object.samples()->next();
  if (!sample) return {};
  std::vector<std::byte> bytes(sample->bytes.size());
  const iovec target{bytes.data(), bytes.size()};
  RangeRead range(protocol_, object.location(), sample->offset, {&target, 1}, object.size(),
                  object.pinned());
  Response response;
  ReadReport own;
  Status status = read_range(object.location(), &range, &response, &own, /*tolerate_416=*/false,
                             source_.traits().stragglers ? kHurry : 0);
  report->retries += own.retries;
  if (!status.ok() || bytes == sample->bytes) return status;
  return Status::error(Code::kChanged,
                       "the object was replaced while it was read: its bytes from " +
                           std::to_string(sample->offset) + " on are others than before")
      .with_hint("Load again; the server sends nothing that names a version of the object");
}

Status HttpReader::list(const std::string& prefix, bool recursive, const ListCallback& found) {
  Result<Location> directory = protocol_.locate(prefix, /*directory=*/true);
  if (!directory.ok()) return directory.status();
  std::string base = prefix;
  while (base.ends_with('/')) base.pop_back();
  Result<CredentialsRef> who = protocol_.credentials(*directory, connection_);
  if (!who.ok()) return from_endpoint(who.status().with_path(prefix), *directory, nullptr);
  if (Status status = protocol_.prepare_list(*directory, *who, connection_); !status.ok()) {
    return from_endpoint(std::move(status).with_path(prefix), *directory, *who);
  }
  std::string next;
  ReadReport report;
  ListBudget budget;
  do {
    Response response;
    Operation operation{.location = *directory,
                        .make =
                            [&](const CredentialsRef& credentials) {
                              return protocol_.make_list(*directory, recursive, next, credentials);
                            },
                        .body = {},
                        .progress = {},
                        .changed = {},
                        .tolerate = [&](const Response& r) { return protocol_.is_empty_list(r); },
                        .watched = nullptr,
                        .hurry_ms = source_.traits().stragglers ? kHurryList : 0,
                        .begins_late = true};
    if (Status status = execute(operation, &response, &report); !status.ok()) {
      return std::move(status).with_path(prefix);
    }
    if (protocol_.is_empty_list(response)) return {};
    Result<ListPage> page = protocol_.read_list(*directory, recursive, next, response);
    if (!page.ok()) {
      const bool other = page.status().code() == Code::kIo && is_html(response);
      Status status = other ? sent_a_page(response, "list") : page.status();
      return from_endpoint(std::move(status).with_path(prefix), *directory, *who);
    }
    if (Status status = budget.add(*page); !status.ok()) {
      return from_endpoint(std::move(status).with_path(prefix), *directory, *who);
    }
    for (ListPage::Entry& entry : page->entries) {
      if (!entry.path.empty()) {
        found(
            {std::move(entry.path), entry.size, std::move(entry.version), std::move(entry.sha256)});
      } else if (entry.key.starts_with(directory->key) &&
                 entry.key.size() > directory->key.size()) {
        found({base + "/" + entry.key.substr(directory->key.size()), entry.size,
               std::move(entry.version), std::move(entry.sha256)});
      }
    }
    next = std::move(page->next);
  } while (!next.empty());
  return {};
}

Result<Access> HttpReader::access(const std::string& path) {
  Result<Location> location = protocol_.locate(path, /*directory=*/true);
  if (!location.ok()) return location.status();
  Access found;
  found.container = location->container;
  found.key = location->key;
  CredentialsRef known;
  if (Result<CredentialsRef> who = protocol_.credentials(*location, connection_); who.ok()) {
    known = *who;
  } else {
    found.credentials = who.status();
  }
  if (known) {
    found.identity = known->identity;
    found.expires_at = known->expires_at;
  }
  const Endpoint endpoint = protocol_.endpoint(*location, known.get());
  found.endpoint = endpoint.url;
  found.endpoint_from = endpoint.from;
  found.region = endpoint.region;
  if (const Result<Url> url = parse_url(endpoint.url); url.ok()) {
    found.host = endpoint.host.empty() ? url->authority() : endpoint.host;
    found.proxy = shown_proxy(proxy_of(*url));
  }
  found.ca_file = source_.transport().settings.trust.file;
  found.ca_directory = source_.transport().settings.trust.directory;
  return found;
}

Status HttpSource::note_opened(const Location& location, const Version& version,
                               const Response& response) {
  if (version.validator.empty()) {
    if (chosen_.require_validator) {
      return Status::error(Code::kUnsupported,
                           "the server sends neither ETag nor Last-Modified: a change of the "
                           "object while it is read may stay unnoticed")
          .with_hint("RUNAI_STREAMER_HTTP_REQUIRE_VALIDATOR=1 refuses such servers");
    }
    snapshot_.unpinned(location.path);
  }
  snapshot_.opened(location.path, version, response);
  return {};
}

Result<std::unique_ptr<Reader>> HttpSource::make_reader() {
  return std::unique_ptr<Reader>(std::make_unique<HttpReader>(*this));
}

}  // namespace

}  // namespace http

Result<std::unique_ptr<Source>> make_http_source(SourceKind kind, http::ProtocolMaker maker,
                                                 const SourceContext& context) {
  const Settings settings(context.options.source);
  Result<std::unique_ptr<http::Protocol>> protocol = maker({settings, context.options.credentials});
  if (!protocol.ok()) return protocol.status();
  Result<http::TransportSettings> transport =
      http::TransportSettings::read(settings, kind, (*protocol)->trust_file());
  if (!transport.ok()) return transport.status();
  const Result<http::HttpSourceSettings> chosen = http::HttpSourceSettings::read(settings);
  if (!chosen.ok()) return chosen.status();
  return std::unique_ptr<Source>(std::make_unique<http::HttpSource>(
      kind, std::move(*protocol), std::move(*transport), *chosen, context));
}

}  // namespace streamer

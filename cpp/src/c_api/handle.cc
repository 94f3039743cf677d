#include "c_api/handle.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "c_api/codes.h"

namespace streamer::capi {
namespace {

using std::chrono::milliseconds;

// A thread that waits for responses lets one that requests in this often.
constexpr milliseconds kSlice{20};

std::mutex strategy_mutex;
std::optional<FsPreference> strategy;  // guarded by strategy_mutex; none: the environment's

Outcome failure(int code, std::string message) { return {code, std::move(message)}; }

Outcome from_status(const Status& status, SourceKind kind, DeviceType device = DeviceType::kHost) {
  return {code_of(status, kind, device), status.to_string()};
}

// Without a bundle that a setting names, TLS would fail later with a text about certificates.
Outcome check_ca_files() {
  for (const char* name : {"AWS_CA_BUNDLE", "SSL_CERT_FILE"}) {
    const char* path = std::getenv(name);
    if (path == nullptr || *path == '\0' || access(path, R_OK) == 0) continue;
    return failure(RUNAI_FILE_STREAMER_CA_FILE_NOT_FOUND,
                   std::string(name) + " names a file that can't be read: " + path);
  }
  return {};
}

// A range that fails before the engine sees it.
struct Early {
  std::uint32_t file;
  std::uint32_t range;
  Outcome outcome;
};

Outcome behind_end(const std::string& path, std::uint64_t size, const Range& range,
                   SourceKind kind) {
  return from_status(Status::error(Code::kShortRead, "the range ends behind the end, which is at " +
                                                         std::to_string(size))
                         .with_path(path)
                         .with_range(range.offset, range.size),
                     kind);
}

}  // namespace

void set_strategy(std::optional<FsPreference> value) {
  const std::lock_guard lock(strategy_mutex);
  strategy = value;
}

class Handle::Visit {
 public:
  // `role`: a flag that only one thread may hold, or null.
  Visit(Handle& handle, bool Handle::*role) : handle_(handle), role_(role) {
    const std::lock_guard lock(handle_.mutex_);
    if (handle_.ending_) {
      refused_ = RUNAI_FILE_STREAMER_FINISHED;
    } else if (role != nullptr && handle_.*role) {
      refused_ = RUNAI_FILE_STREAMER_BUSY;
    } else {
      ++handle_.visitors_;
      if (role != nullptr) handle_.*role = true;
    }
  }
  ~Visit() {
    if (refused_ != 0) return;
    const std::lock_guard lock(handle_.mutex_);
    --handle_.visitors_;
    if (role_ != nullptr) handle_.*role_ = false;
    handle_.changed_.notify_all();  // under the lock: end() may free the handle right after
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;
  int refused() const { return refused_; }

 private:
  Handle& handle_;
  bool Handle::*role_;
  int refused_ = 0;
};

Outcome Handle::set_credentials(std::map<std::string, std::string> values) {
  const Visit visit(*this, nullptr);
  if (visit.refused() != 0) return failure(visit.refused(), describe(visit.refused()));
  const std::lock_guard lock(credentials_->mutex);
  if (!credentials_->values.empty() && credentials_->values != values) {
    return failure(RUNAI_FILE_STREAMER_CREDENTIALS_SET,
                   "this streamer has other credentials; start another one for these");
  }
  credentials_->values = std::move(values);
  return {};
}

Result<Options> Handle::options() const {
  Result<Options> options = Options::from_environment();
  if (!options.ok()) return options;
  {
    const std::lock_guard lock(strategy_mutex);
    if (strategy) options->fs_strategy = *strategy;
  }
  options->credentials = [state = credentials_](const CredentialsRequest& request) {
    Credentials credentials;
    const std::lock_guard lock(state->mutex);
    if (request.kind == SourceKind::kS3 && !state->values.empty()) {
      credentials.values = state->values;
      credentials.identity = "credentials given to the streamer";
      if (auto key = state->values.find("access_key_id"); key != state->values.end()) {
        credentials.identity += " (access key " + key->second + ")";
      }
    }
    return Result<Credentials>(std::move(credentials));
  };
  return options;
}

Outcome Handle::start_stream() {
  if (stream_ != nullptr) return {};
  Result<Options> chosen = options();
  if (!chosen.ok()) return from_status(chosen.status(), SourceKind::kFile);
  auto stream = Stream::create(std::move(*chosen));
  if (!stream.ok()) return from_status(stream.status(), SourceKind::kFile);
  stream_ = std::move(*stream);
  const std::lock_guard lock(mutex_);
  running_ = stream_.get();
  if (ending_) running_->cancel();
  return {};
}

// Opens what is new. `failures` gets one outcome per file, of code 0 where it is open.
Outcome Handle::open_files(const std::vector<FileRequest>& files, std::vector<Outcome>* failures) {
  std::vector<std::string> paths;
  SourceKind kind = SourceKind::kFile;
  for (const FileRequest& file : files) {
    const Result<SourceKind> its_kind = source_kind_of(file.path);
    if (!its_kind.ok()) return from_status(its_kind.status(), kind);
    if (&file != &files.front() && *its_kind != kind) {
      return failure(RUNAI_FILE_STREAMER_MIXED_BACKENDS,
                     "one request names " + files.front().path + " and " + file.path);
    }
    kind = *its_kind;
    const bool again = std::find(paths.begin(), paths.end(), file.path) != paths.end();
    if (!again && !opened_.contains(file.path)) paths.push_back(file.path);
  }
  if (kind != SourceKind::kFile && !paths.empty()) {
    if (Outcome missing = check_ca_files(); missing.code != 0) return missing;
  }
  std::unordered_map<std::string, Outcome> failed;
  if (!paths.empty()) {
    auto opened = stream_->open(paths);
    if (!opened.ok()) return from_status(opened.status(), kind);
    for (std::size_t i = 0; i < paths.size(); ++i) {
      const std::uint32_t index = files_opened_++;
      const Status& status = (*opened)[i].status;
      if (status.ok()) {
        opened_.emplace(paths[i], File{index, (*opened)[i].size});
      } else {
        failed.emplace(paths[i], from_status(status, kind));
      }
    }
  }
  failures->clear();
  for (const FileRequest& file : files) {
    auto bad = failed.find(file.path);
    failures->push_back(bad == failed.end() ? Outcome{} : bad->second);
  }
  return {};
}

Outcome Handle::request(std::vector<FileRequest> files, Device device, std::uint64_t* id) {
  const Visit visit(*this, &Handle::requesting_);
  if (visit.refused() != 0) return failure(visit.refused(), describe(visit.refused()));
  ++requesters_;
  std::unique_lock engine(engine_mutex_);
  --requesters_;
  if (Outcome bad = start_stream(); bad.code != 0) return bad;
  std::vector<Outcome> failures;
  if (Outcome bad = open_files(files, &failures); bad.code != 0) return bad;

  Submission submission;
  submission.kind = *source_kind_of(files.front().path);
  submission.device = device.type;
  std::vector<FileRanges> entries;
  std::vector<Early> early;
  for (std::uint32_t i = 0; i < files.size(); ++i) {
    const std::vector<Range>& ranges = files[i].ranges;
    submission.answered.emplace_back(ranges.size(), false);
    submission.open += ranges.size();
    const File file = failures[i].code == 0 ? opened_.at(files[i].path) : File{};
    FileRanges readable{file.index, {}};
    Entry entry{i, {}};
    for (std::uint32_t j = 0; j < ranges.size(); ++j) {
      if (failures[i].code != 0) {
        early.push_back({i, j, failures[i]});
      } else if (ranges[j].offset + ranges[j].size > file.size) {
        early.push_back({i, j, behind_end(files[i].path, file.size, ranges[j], submission.kind)});
      } else {
        readable.ranges.push_back(ranges[j]);
        entry.ranges.push_back(j);
      }
    }
    if (readable.ranges.empty()) continue;
    entries.push_back(std::move(readable));
    submission.entries.push_back(std::move(entry));
  }
  std::optional<std::uint64_t> engine_id;
  if (!entries.empty()) {
    const auto submitted = stream_->submit(std::move(entries), device);
    if (!submitted.ok()) return from_status(submitted.status(), submission.kind, device.type);
    engine_id = *submitted;
  }
  const std::lock_guard lock(mutex_);
  *id = next_submission_++;
  if (engine_id) engine_ids_.emplace(*engine_id, *id);
  submissions_.emplace(*id, std::move(submission));
  for (const Early& failed : early) answer(*id, failed.file, failed.range, failed.outcome);
  changed_.notify_all();
  return {};
}

// Queues the response for one range, once. Needs mutex_.
void Handle::answer(std::uint64_t id, std::uint32_t file, std::uint32_t range,
                    const Outcome& outcome) {
  const auto found = submissions_.find(id);
  if (found == submissions_.end()) return;
  Submission& submission = found->second;
  if (submission.answered[file][range]) return;
  submission.answered[file][range] = true;
  --submission.open;
  responses_.push_back({id, file, range, submission.open == 0, outcome});
  if (submission.open == 0) submissions_.erase(found);
}

// Answers everything that is still open. Needs mutex_.
void Handle::answer_all(const Outcome& outcome) {
  while (!submissions_.empty()) {
    const auto& [id, submission] = *submissions_.begin();
    const auto answered = submission.answered;
    for (std::uint32_t file = 0; file < answered.size(); ++file) {
      for (std::uint32_t range = 0; range < answered[file].size(); ++range) {
        if (!answered[file][range]) answer(id, file, range, outcome);
      }
    }
  }
}

// Takes what the engine has, waiting at most `slice`.
void Handle::pump(milliseconds slice) {
  std::lock_guard engine(engine_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (submissions_.empty()) return;
  }
  Result<Batch> batch = stream_->next(slice);
  const std::lock_guard lock(mutex_);
  if (!batch.ok()) {
    if (!ending_) answer_all(from_status(batch.status(), SourceKind::kFile));
    return;
  }
  for (const Ready& ready : batch->ready) {
    const auto id = engine_ids_.find(ready.submission);
    if (id == engine_ids_.end()) continue;
    const auto found = submissions_.find(id->second);
    if (found == submissions_.end()) continue;
    const Submission& submission = found->second;
    const Outcome outcome = ready.status.ok()
                                ? Outcome{}
                                : from_status(ready.status, submission.kind, submission.device);
    const Entry& entry = submission.entries[ready.entry];  // until its last answer
    for (std::uint32_t i = 0; i < ready.count; ++i) {
      answer(id->second, entry.file, entry.ranges[ready.first_range + i], outcome);
    }
    if (!submissions_.contains(id->second)) engine_ids_.erase(id);
  }
  if (batch->finished && !submissions_.empty()) {
    answer_all(failure(RUNAI_FILE_STREAMER_UNKNOWN, "the engine finished without this range"));
  }
}

Outcome Handle::respond(unsigned timeout_ms, Response* response, bool* taken) {
  *taken = false;
  const Visit visit(*this, &Handle::responding_);
  if (visit.refused() != 0) return failure(visit.refused(), describe(visit.refused()));
  const bool limited = timeout_ms != 0;
  const Clock::time_point deadline = Clock::now() + milliseconds(timeout_ms);
  for (;;) {
    milliseconds slice = kSlice;
    {
      std::unique_lock lock(mutex_);
      const auto awake = [&] { return ending_ || !responses_.empty() || !submissions_.empty(); };
      if (!limited) {
        changed_.wait(lock, awake);
      } else if (!changed_.wait_until(lock, deadline, awake)) {
        return failure(RUNAI_FILE_STREAMER_TIMED_OUT, "nothing was requested in this time");
      }
      if (ending_) return failure(RUNAI_FILE_STREAMER_FINISHED, "the streamer is being ended");
      if (!responses_.empty()) {
        *response = std::move(responses_.front());
        responses_.pop_front();
        *taken = true;
        return response->outcome;
      }
    }
    if (limited) {
      const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
      if (left.count() <= 0) {
        return failure(RUNAI_FILE_STREAMER_TIMED_OUT, "no range became ready in this time");
      }
      slice = std::min(slice, left);
    }
    while (requesters_.load() > 0) std::this_thread::yield();
    pump(slice);
  }
}

void Handle::end() {
  if (getpid() != process_) return;  // the threads that it would wait for are the parent's
  std::unique_lock lock(mutex_);
  ending_ = true;
  if (running_ != nullptr) running_->cancel();
  changed_.notify_all();
  changed_.wait(lock, [&] { return visitors_ == 0; });
}

}  // namespace streamer::capi

#include "c_api/handle.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <unordered_set>
#include <utility>

#include "base/interrupt_poll.h"
#include "base/settings.h"
#include "base/text.h"
#include "c_api/codes.h"

namespace streamer::c_api {
namespace {

using std::chrono::milliseconds;

CallResult failure(int code, std::string message) { return {code, std::move(message)}; }

CallResult from_status(const Status& status, SourceKind kind,
                       DeviceType device = DeviceType::kHost) {
  return {code_of(status, kind, device), status.to_string()};
}

// Of a range: programs continue after codes 2, 3 and 15, and end the session on any other one.
CallResult of_range(const Status& status, SourceKind kind, DeviceType device = DeviceType::kHost) {
  CallResult result = from_status(status, kind, device);
  if (result.code == RUNAI_FILE_STREAMER_RETRYABLE) result.code = RUNAI_FILE_STREAMER_FILE_ACCESS;
  return result;
}

// True if the callback of the program ended the present call of this thread.
thread_local bool ended_by_program = false;

CallResult ended_early() {
  return failure(RUNAI_FILE_STREAMER_INTERRUPTED, describe(RUNAI_FILE_STREAMER_INTERRUPTED));
}

// Of a call that failed as a whole.
CallResult from_call(const Status& status, SourceKind kind) {
  if (status.code() == Code::kCancelled && ended_by_program) return ended_early();
  return from_status(status, kind);
}

// If the bundle that a setting names is missing, TLS would fail later with a text about
// certificates.
CallResult check_ca_files() {
  const Settings settings;
  for (const char* name : {"AWS_CA_BUNDLE", "SSL_CERT_FILE"}) {
    const std::optional<std::string> path = settings.text(name);
    if (!path || access(path->c_str(), R_OK) == 0) continue;
    return failure(RUNAI_FILE_STREAMER_CA_FILE_NOT_FOUND,
                   std::string(name) + " names a file that can't be read: " + *path);
  }
  return {};
}

CallResult behind_end(const std::string& path, std::uint64_t size, const Range& range,
                      SourceKind kind) {
  return from_status(Status::error(Code::kShortRead, "the range ends behind the end, which is at " +
                                                         std::to_string(size))
                         .with_path(path)
                         .with_range(range.offset, range.size),
                     kind);
}

}  // namespace

class Handle::Visit {
 public:
  // `role`: a flag that only one thread may hold, or null.
  Visit(Handle& handle, bool Handle::*role) : handle_(handle), role_(role) {
    if (getpid() != handle_.process_) {  // no lock can be trusted
      refusal_ = failure(RUNAI_FILE_STREAMER_INVALID,
                         "the streamer belongs to the process that this one forked from");
      return;
    }
    ended_by_program = false;
    const MutexLock lock(handle_.mutex_);
    if (handle_.ending_) {
      refusal_ = failure(RUNAI_FILE_STREAMER_FINISHED, describe(RUNAI_FILE_STREAMER_FINISHED));
    } else if (role != nullptr && handle_.*role) {
      refusal_ = failure(RUNAI_FILE_STREAMER_BUSY, describe(RUNAI_FILE_STREAMER_BUSY));
    } else {
      ++handle_.visitors_;
      if (role != nullptr) handle_.*role = true;
    }
  }
  ~Visit() {
    if (refused()) return;
    const MutexLock lock(handle_.mutex_);
    --handle_.visitors_;
    if (role_ != nullptr) handle_.*role_ = false;
    handle_.changed_.notify_all();  // under the lock: end() may free the handle right after
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;
  bool refused() const { return refusal_.code != 0; }
  const CallResult& refusal() const { return refusal_; }

 private:
  Handle& handle_;
  bool Handle::*const role_;
  CallResult refusal_;
};

CallResult Handle::set_credentials(std::map<std::string, std::string> values) {
  const Visit visit(*this, nullptr);
  if (visit.refused()) return visit.refusal();
  const MutexLock lock(credentials_->mutex);
  if (!credentials_->values.empty() && credentials_->values != values) {
    return failure(RUNAI_FILE_STREAMER_CREDENTIALS_SET,
                   "this streamer has other credentials; start another one for these");
  }
  credentials_->values = std::move(values);
  return {};
}

CallResult Handle::set_strategy(std::string_view candidates) {
  std::vector<std::string> names;
  for (std::size_t start = 0; start <= candidates.size();) {
    const std::size_t end = std::min(candidates.find(',', start), candidates.size());
    names.push_back(lower(trim(candidates.substr(start, end - start))));
    if (std::count(names.begin(), names.end(), names.back()) > 1) {
      return failure(RUNAI_FILE_STREAMER_INVALID,
                     "set_fs_strategy: '" + names.back() + "' stands there twice");
    }
    start = end + 1;
  }
  const auto chosen = parse_fs_strategy(candidates);
  if (!chosen.ok()) return failure(RUNAI_FILE_STREAMER_INVALID, chosen.status().to_string());
  const Visit visit(*this, nullptr);
  if (visit.refused()) return visit.refusal();
  const MutexLock lock(mutex_);
  if (candidates_ == names) return {};
  if (!candidates_.empty() || strategy_in_use_) {
    return failure(RUNAI_FILE_STREAMER_STRATEGY_SET,
                   strategy_in_use_ ? "this streamer reads by another strategy; start another one"
                                    : "this streamer has another strategy; start another one");
  }
  candidates_ = std::move(names);
  strategy_ = *chosen;
  return {};
}

CallResult Handle::set_interrupt(const Interrupt& interrupt) {
  const Visit visit(*this, nullptr);
  if (visit.refused()) return visit.refusal();
  const MutexLock lock(mutex_);
  interrupt_ = interrupt;
  changed_.notify_all();  // a response that waits asks from now on
  return {};
}

bool Handle::interrupted() {
  Interrupt interrupt;
  {
    const MutexLock lock(mutex_);
    if (ending_) return true;
    interrupt = interrupt_;
  }
  if (interrupt.asked == nullptr) return false;
  bool ends = true;
  try {
    ends = interrupt.asked(interrupt.user) != 0;
  } catch (...) {  // the engine expects none
  }
  if (ends) ended_by_program = true;
  return ends;
}

Result<Options> Handle::options() {
  Result<Options> options = Options::from_environment();
  if (!options.ok()) return options;
  {
    const MutexLock lock(mutex_);
    if (!candidates_.empty()) options->fs_strategy = strategy_;
  }
  options->credentials = [state = credentials_](const CredentialsRequest& request) {
    Credentials credentials;
    const MutexLock lock(state->mutex);
    if (request.kind == SourceKind::kS3 && !state->values.empty()) {
      credentials.values = state->values;
      credentials.identity = "credentials given to the streamer";
      if (auto key = state->values.find("access_key_id"); key != state->values.end()) {
        credentials.identity += " (access key " + key->second + ")";
      }
    }
    return Result<Credentials>(std::move(credentials));
  };
  options->interrupted = [this] { return interrupted(); };
  return options;
}

CallResult Handle::list(const std::string& prefix, SourceKind kind, bool recursive,
                        std::vector<ListedObject>* found) {
  const Visit visit(*this, nullptr);
  if (visit.refused()) return visit.refusal();
  auto chosen = options();
  if (!chosen.ok()) return from_status(chosen.status(), kind);
  auto objects = streamer::list(prefix, recursive, *chosen);
  if (!objects.ok()) return from_call(objects.status(), kind);
  *found = std::move(*objects);
  return {};
}

CallResult Handle::start_stream() {
  {
    const MutexLock lock(mutex_);
    if (stream_ != nullptr) return {};
    strategy_in_use_ = true;
  }
  Result<Options> chosen = options();
  Status status = chosen.ok() ? Status() : chosen.status();
  std::unique_ptr<Stream> made;
  if (status.ok()) {
    auto stream = Stream::create(std::move(*chosen));
    if (stream.ok()) {
      made = std::move(*stream);
    } else {
      status = stream.status();
    }
  }
  const MutexLock lock(mutex_);
  if (!status.ok()) {
    strategy_in_use_ = false;
    return from_status(status, SourceKind::kFile);
  }
  stream_ = std::move(made);
  if (ending_) stream_->cancel();
  return {};
}

// Opens new files. `failures` gets one result per file, of code 0 if it is open.
CallResult Handle::open_files(Stream& stream, const std::vector<FileRequest>& files,
                              std::vector<CallResult>* failures) {
  std::vector<std::string> paths;
  std::unordered_set<std::string> seen;
  SourceKind kind = SourceKind::kFile;
  for (const FileRequest& file : files) {
    const Result<SourceKind> its_kind = source_kind_of(file.path);
    if (!its_kind.ok()) return from_status(its_kind.status(), kind);
    if (&file != &files.front() && *its_kind != kind) {
      return failure(RUNAI_FILE_STREAMER_MIXED_BACKENDS,
                     "one request names " + files.front().path + " and " + file.path);
    }
    kind = *its_kind;
    if (!opened_.contains(file.path) && seen.insert(file.path).second) paths.push_back(file.path);
  }
  if (kind != SourceKind::kFile && !paths.empty()) {
    if (CallResult missing = check_ca_files(); missing.code != 0) return missing;
  }
  std::unordered_map<std::string, CallResult> failed;
  if (!paths.empty()) {
    auto opened = stream.open(paths);
    if (!opened.ok()) return from_call(opened.status(), kind);
    for (std::size_t i = 0; i < paths.size(); ++i) {
      const OpenedFile& file = (*opened)[i];
      if (file.status.ok()) {
        opened_.emplace(paths[i], File{file.index, file.size});
      } else {
        failed.emplace(paths[i], of_range(file.status, kind));
      }
    }
  }
  failures->clear();
  for (const FileRequest& file : files) {
    const auto bad = failed.find(file.path);
    failures->push_back(bad == failed.end() ? CallResult{} : bad->second);
  }
  return {};
}

CallResult Handle::request(std::vector<FileRequest> files, Device device, std::uint64_t* id) {
  const Visit visit(*this, &Handle::requesting_);
  if (visit.refused()) return visit.refusal();
  if (CallResult bad = start_stream(); bad.code != 0) return bad;
  Stream& stream = *this->stream();
  std::vector<CallResult> failures;
  if (CallResult bad = open_files(stream, files, &failures); bad.code != 0) return bad;

  // Everything that may throw comes before the stream writes to the destinations.
  Submissions made;
  Submission& submission = made[0];
  if (!files.empty()) submission.kind = *source_kind_of(files.front().path);
  submission.device = device.type;
  std::vector<FileRanges> entries;
  std::list<Refused> refused;
  for (std::uint32_t i = 0; i < files.size(); ++i) {
    const std::vector<Range>& ranges = files[i].ranges;
    submission.answered.emplace_back(ranges.size(), false);
    submission.open += ranges.size();
    const File file = failures[i].code == 0 ? opened_.at(files[i].path) : File{};
    FileRanges readable{file.index, {}};
    Entry entry{i, {}};
    for (std::uint32_t j = 0; j < ranges.size(); ++j) {
      if (failures[i].code != 0) {
        refused.push_back({0, i, j, failures[i]});
      } else if (ranges[j].offset + ranges[j].size > file.size) {
        refused.push_back(
            {0, i, j, behind_end(files[i].path, file.size, ranges[j], submission.kind)});
      } else {
        readable.ranges.push_back(ranges[j]);
        entry.ranges.push_back(j);
      }
    }
    if (readable.ranges.empty()) continue;
    entries.push_back(std::move(readable));
    submission.entries.push_back(std::move(entry));
  }
  // A submission without entries needs no device.
  const Device used = entries.empty() ? Device{} : device;
  const auto submitted = stream.submit(std::move(entries), used);
  if (!submitted.ok()) return from_status(submitted.status(), submission.kind, device.type);
  *id = *submitted;
  for (Refused& range : refused) range.submission = *id;
  const bool wake = !refused.empty();
  {
    const MutexLock lock(mutex_);
    if (submission.open > 0) {
      auto node = made.extract(made.begin());
      node.key() = *id;
      submissions_.insert(std::move(node));
    }
    next_submission_ = *id + 1;
    refused_.splice(refused_.end(), refused);
  }
  changed_.notify_all();
  if (wake) stream.wake();
  return {};
}

Stream* Handle::stream() {
  const MutexLock lock(mutex_);
  return stream_.get();
}

// Fills `response` for one range. False: the range has its response already.
bool Handle::answer(Submissions::iterator submission, std::uint32_t file, std::uint32_t range,
                    CallResult result, Response* response) {
  auto& [id, state] = *submission;
  if (state.answered[file][range]) return false;
  state.answered[file][range] = true;
  --state.open;
  *response = {id, file, range, state.open == 0, std::move(result)};
  if (state.open == 0) submissions_.erase(submission);
  return true;
}

bool Handle::take_refused(Response* response) {
  while (!refused_.empty()) {
    Refused range = std::move(refused_.front());
    refused_.pop_front();
    const auto found = submissions_.find(range.submission);
    if (found != submissions_.end() &&
        answer(found, range.file, range.range, std::move(range.result), response)) {
      return true;
    }
  }
  return false;
}

bool Handle::take_arrived(Response* response) {
  while (next_ready_ < arrived_.size()) {
    const Ready& ready = arrived_[next_ready_];
    if (ready.submission >= next_submission_) return false;  // request() is about to add it
    const auto found = submissions_.find(ready.submission);
    if (next_range_ == ready.count || found == submissions_.end()) {
      ++next_ready_;
      next_range_ = 0;
      continue;
    }
    const Submission& submission = found->second;
    const Entry& entry = submission.entries[ready.entry];
    CallResult result = ready.status.ok()
                            ? CallResult{}
                            : of_range(ready.status, submission.kind, submission.device);
    const std::uint32_t range = entry.ranges[ready.first_range + next_range_];
    ++next_range_;
    if (answer(found, entry.file, range, std::move(result), response)) return true;
  }
  arrived_.clear();
  next_ready_ = 0;
  return false;
}

bool Handle::take_lost(Response* response) {
  while (lost_ && !submissions_.empty() && submissions_.begin()->first < lost_before_) {
    const auto first = submissions_.begin();
    const auto& answered = first->second.answered;
    for (std::uint32_t file = 0; file < answered.size(); ++file) {
      const auto open = std::find(answered[file].begin(), answered[file].end(), false);
      if (open == answered[file].end()) continue;
      const auto range = static_cast<std::uint32_t>(open - answered[file].begin());
      return answer(first, file, range, *lost_, response);
    }
  }
  return false;
}

bool Handle::take_response(Response* response) {
  return take_refused(response) || take_arrived(response) || take_lost(response);
}

// `known`: all submissions before this one were with the stream when it was asked.
void Handle::take_batch(Result<Batch> batch, std::uint64_t known) {
  const MutexLock lock(mutex_);
  if (batch.ok()) {
    arrived_ = std::move(batch->ready);
    if (!batch->finished) return;
    lost_ = failure(RUNAI_FILE_STREAMER_UNKNOWN, "the engine finished without this range");
    lost_before_ = known;
  } else {
    lost_ = from_status(batch.status(), SourceKind::kFile);
    lost_before_ = ~std::uint64_t{0};
  }
}

CallResult Handle::respond(unsigned timeout_ms, Response* response, bool* taken) {
  *taken = false;
  const Visit visit(*this, &Handle::responding_);
  if (visit.refused()) return visit.refusal();
  const Clock::time_point deadline =
      timeout_ms == 0 ? Clock::time_point::max() : Clock::now() + milliseconds(timeout_ms);
  Clock::time_point poll = Clock::now() + kInterruptPoll;
  for (;;) {
    Stream* stream = nullptr;
    std::uint64_t known = 0;
    {
      MutexLock lock(mutex_);
      for (;;) {
        if (ending_) return failure(RUNAI_FILE_STREAMER_FINISHED, "the streamer is being ended");
        if (take_response(response)) {
          *taken = true;
          return std::move(response->result);
        }
        // Else nothing was requested, or request() has not added yet a submission that arrived.
        if (!submissions_.empty() && next_ready_ == arrived_.size()) break;
        if (Clock::now() >= deadline) {
          return failure(RUNAI_FILE_STREAMER_TIMED_OUT, "nothing was requested in this time");
        }
        if (interrupt_.asked != nullptr && Clock::now() >= poll) {
          lock.unlock();
          const bool ends = interrupted();
          lock.lock();
          if (ends) return ended_early();
          poll = Clock::now() + kInterruptPoll;
          continue;
        }
        changed_.wait_until(mutex_,
                            interrupt_.asked != nullptr ? std::min(poll, deadline) : deadline);
      }
      stream = stream_.get();
      known = next_submission_;
    }
    milliseconds left = milliseconds::max();
    if (timeout_ms != 0) {
      left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
      if (left.count() <= 0) {
        return failure(RUNAI_FILE_STREAMER_TIMED_OUT, "no range became ready in this time");
      }
    }
    Result<Batch> batch = stream->next(left);
    if (!batch.ok() && ended_by_program) return ended_early();
    take_batch(std::move(batch), known);
  }
}

void Handle::end(Handle* handle) {
  if (getpid() != handle->process_) return;
  handle->wait_for_end();
  delete handle;
}

void Handle::wait_for_end() {
  const MutexLock lock(mutex_);
  ending_ = true;
  if (stream_ != nullptr) stream_->cancel();
  changed_.notify_all();
  while (visitors_ > 0) changed_.wait(mutex_);
}

}  // namespace streamer::c_api

// A streamer of the C ABI: one Stream, the files that it opened, and the responses to deliver.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "c_api/report.h"
#include "streamer/storage.h"
#include "streamer/stream.h"

namespace streamer::c_api {

struct FileRequest {
  std::string path;
  std::vector<Range> ranges;
};

struct Response {
  std::uint64_t submission = 0;
  std::uint32_t file = 0;
  std::uint32_t range = 0;
  bool last = false;  // of its submission
  CallResult result;
};

// The callback of the program that is called while a call waits.
struct Interrupt {
  RunaiFileStreamerInterruptCallback asked = nullptr;  // null: nothing
  void* user = nullptr;
};

// One thread may be in request() while another is in respond(); end() may be called by any thread.
// No call waits for another one: the stream itself is thread-safe.
class Handle {
 public:
  CallResult set_credentials(std::map<std::string, std::string> values) EXCLUDES(mutex_);
  // `candidates`: names of strategies, separated by commas; fixed by the first call or request.
  CallResult set_strategy(std::string_view candidates) EXCLUDES(mutex_);
  // Of calls from now on, and of those that wait.
  CallResult set_interrupt(const Interrupt& interrupt) EXCLUDES(mutex_);
  // A submission without files has no response.
  CallResult request(std::vector<FileRequest> files, Device device, std::uint64_t* submission)
      EXCLUDES(mutex_);
  // Waits at most `timeout_ms`; 0: without limit. `taken`: true if `response` was filled; else the
  // result is that of the call.
  CallResult respond(unsigned timeout_ms, Response* response, bool* taken) EXCLUDES(mutex_);
  // The objects below a directory; end() ends the list.
  CallResult list(const std::string& prefix, SourceKind kind, bool recursive,
                  std::vector<ListedObject>* found) EXCLUDES(mutex_);
  // Makes every call return, waits until it did, and frees the handle. In a forked child no call
  // can be waited for: the handle is left to the end of the process.
  static void end(Handle* handle);

 private:
  struct Entry {
    std::uint32_t file = 0;             // index into the request
    std::vector<std::uint32_t> ranges;  // the request's index of each
  };
  struct File {
    std::uint32_t index = 0;  // in the stream
    std::uint64_t size = 0;
  };
  struct Submission {
    std::vector<std::vector<bool>> answered;  // by file and range
    std::vector<Entry> entries;               // that the stream was given
    std::uint64_t open = 0;                   // ranges without a response
    SourceKind kind = SourceKind::kFile;
    DeviceType device = DeviceType::kHost;
  };
  using Submissions = std::map<std::uint64_t, Submission>;
  // A range that failed before the stream got it.
  struct Refused {
    std::uint64_t submission = 0;
    std::uint32_t file = 0;
    std::uint32_t range = 0;
    CallResult result;
  };
  struct CredentialsState {
    Mutex mutex;
    std::map<std::string, std::string> values GUARDED_BY(mutex);
  };
  class Visit;  // keeps end() waiting

  // The options of a list, and of the stream.
  Result<Options> options() EXCLUDES(mutex_);
  // True if the call of this thread should end. Calls the callback of the program.
  bool interrupted() EXCLUDES(mutex_);
  CallResult start_stream() EXCLUDES(mutex_);
  Stream* stream() EXCLUDES(mutex_);
  CallResult open_files(Stream& stream, const std::vector<FileRequest>& files,
                        std::vector<CallResult>* failures);
  void wait_for_end() EXCLUDES(mutex_);
  bool take_response(Response* response) REQUIRES(mutex_);
  bool take_refused(Response* response) REQUIRES(mutex_);
  bool take_arrived(Response* response) REQUIRES(mutex_);
  bool take_lost(Response* response) REQUIRES(mutex_);
  bool answer(Submissions::iterator submission, std::uint32_t file, std::uint32_t range,
              CallResult result, Response* response) REQUIRES(mutex_);
  void take_batch(Result<Batch> batch, std::uint64_t known) EXCLUDES(mutex_);

  const pid_t process_ = getpid();
  const std::shared_ptr<CredentialsState> credentials_ = std::make_shared<CredentialsState>();

  // Of the one thread that is in request().
  std::unordered_map<std::string, File> opened_;  // by path

  Mutex mutex_;
  CondVar changed_;
  std::unique_ptr<Stream> stream_ GUARDED_BY(mutex_);       // made by the first request
  std::vector<std::string> candidates_ GUARDED_BY(mutex_);  // empty: the environment's strategy
  FsPreference strategy_ GUARDED_BY(mutex_);                // of the candidates
  bool strategy_in_use_ GUARDED_BY(mutex_) = false;
  // By the stream's number. Those from next_submission_ on are not known here yet.
  Submissions submissions_ GUARDED_BY(mutex_);
  std::uint64_t next_submission_ GUARDED_BY(mutex_) = 0;

  // Responses are made of these, one at a time, so that none is lost if memory runs out.
  std::list<Refused> refused_ GUARDED_BY(mutex_);
  std::vector<Ready> arrived_ GUARDED_BY(mutex_);
  std::size_t next_ready_ GUARDED_BY(mutex_) = 0;    // index into arrived_
  std::uint32_t next_range_ GUARDED_BY(mutex_) = 0;  // index into the ranges of that entry
  // Everything without a response fails with this: the stream was cancelled or has lost ranges of
  // submissions before `lost_before_`.
  std::optional<CallResult> lost_ GUARDED_BY(mutex_);
  std::uint64_t lost_before_ GUARDED_BY(mutex_) = 0;

  Interrupt interrupt_ GUARDED_BY(mutex_);
  bool ending_ GUARDED_BY(mutex_) = false;
  int visitors_ GUARDED_BY(mutex_) = 0;
  bool requesting_ GUARDED_BY(mutex_) = false;
  bool responding_ GUARDED_BY(mutex_) = false;
};

}  // namespace streamer::c_api

// What a streamer of the C ABI is: one Stream, the files it opened, and the responses to hand out.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "streamer/stream.h"

namespace streamer::capi {

// A code of the C ABI and, where it is a failure, what there is to say about it.
struct Outcome {
  int code = 0;
  std::string message;
};

struct FileRequest {
  std::string path;
  std::vector<Range> ranges;
};

struct Response {
  std::uint64_t submission = 0;
  std::uint32_t file = 0;
  std::uint32_t range = 0;
  bool last = false;  // of its submission
  Outcome outcome;
};

// One thread may be in request() while another is in respond(); end() may come from anywhere.
class Handle {
 public:
  Outcome set_credentials(std::map<std::string, std::string> values);
  Outcome request(std::vector<FileRequest> files, Device device, std::uint64_t* submission);
  // `timeout_ms` 0: no limit.
  // `taken`: whether `response` was filled; else the outcome is that of the call.
  Outcome respond(unsigned timeout_ms, Response* response, bool* taken);
  // The options that a stream of this handle gets.
  Result<Options> options() const;
  // Makes every call return, and waits until it did.
  void end();

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
    std::vector<Entry> entries;               // what the engine was given
    std::uint64_t open = 0;                   // ranges without a response
    SourceKind kind = SourceKind::kFile;
    DeviceType device = DeviceType::kHost;
  };
  struct CredentialsState {
    std::mutex mutex;
    std::map<std::string, std::string> values;
  };
  class Visit;  // keeps end() waiting

  Outcome start_stream();
  Outcome open_files(const std::vector<FileRequest>& files, std::vector<Outcome>* failures);
  void pump(std::chrono::milliseconds slice);
  void answer(std::uint64_t id, std::uint32_t file, std::uint32_t range, const Outcome& outcome);
  void answer_all(const Outcome& outcome);

  const pid_t process_ = getpid();
  const std::shared_ptr<CredentialsState> credentials_ = std::make_shared<CredentialsState>();

  std::mutex engine_mutex_;  // the stream's calls, and everything down to engine_ids_
  std::unique_ptr<Stream> stream_;
  std::unordered_map<std::string, File> opened_;  // by path
  std::uint32_t files_opened_ = 0;
  std::unordered_map<std::uint64_t, std::uint64_t> engine_ids_;  // the stream's number to ours
  std::atomic<int> requesters_{0};  // threads that want engine_mutex_ before the next wait

  std::mutex mutex_;  // everything below; taken after engine_mutex_
  std::condition_variable changed_;
  std::map<std::uint64_t, Submission> submissions_;
  std::deque<Response> responses_;
  std::uint64_t next_submission_ = 0;
  Stream* running_ = nullptr;  // stream_, once it is there
  bool ending_ = false;
  int visitors_ = 0;
  bool requesting_ = false;
  bool responding_ = false;
};

// How later streams read files; none: as the environment says.
void set_strategy(std::optional<FsPreference> strategy);

}  // namespace streamer::capi

// Threads of the C ABI: whatever one waits for, another is not delayed by it.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <future>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "c_streamer.h"
#include "streamer/runai_file_streamer.h"
#include "temporary.h"

#ifdef STREAMER_OBJECT_STORAGE
#include "tiny_server.h"

namespace {

// 64 KiB under every path. Requests for /slow-open and, but for the first one of each path, for
// /slow-read wait until they are released.
class HoldingServer {
 public:
  static constexpr size_t kSize = 64 << 10;

  ~HoldingServer() { release(); }
  std::string url(const std::string& path) const { return server_.url() + path; }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  // Waits until `requests` are held.
  void wait_until_held(int requests) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_ >= requests; });
  }

 private:
  std::string answer(const std::string& request) {
    const std::string path = request.substr(0, request.find(" HTTP"));
    std::unique_lock lock(mutex_);
    const bool first_of_path = seen_.insert(path).second;
    if (path.find("/slow-open") != std::string::npos ||
        (path.find("/slow-read") != std::string::npos && !first_of_path)) {
      ++held_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return released_; });
    }
    lock.unlock();
    unsigned first = 0;
    unsigned last = kSize - 1;
    const size_t range = request.find("bytes=");
    if (range != std::string::npos) {
      std::sscanf(request.c_str() + range, "bytes=%u-%u", &first, &last);
    }
    last = std::min<unsigned>(last, kSize - 1);
    const std::string part(last - first + 1, 'b');
    return "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nConnection: close\r\nContent-Range: "
           "bytes " +
           std::to_string(first) + "-" + std::to_string(last) + "/" + std::to_string(kSize) +
           "\r\nContent-Length: " + std::to_string(part.size()) + "\r\n\r\n" + part;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool released_ = false;
  int held_ = 0;
  std::set<std::string> seen_;
  const TinyServer server_{[this](const std::string& request) { return answer(request); },
                           /*concurrent=*/true};
};

// What `call` returns, of another thread. If it has not returned after a minute, the server is
// released, so that the test ends, and fails.
template <typename Call>
auto returns_while_held(HoldingServer& server, Call call) {
  auto result = std::async(std::launch::async, call);
  if (result.wait_for(std::chrono::minutes(1)) != std::future_status::ready) {
    ADD_FAILURE() << "the call waits for another thread";
    server.release();
  }
  return result.get();
}

class CApiThreads : public testing::Test {
 protected:
  // Requests a range that arrives only when the server is released.
  void request_held_range() {
    ASSERT_EQ(streamer_.request(server_.url("/slow-read"), {{1000, 50000}}, &slow_),
              RUNAI_FILE_STREAMER_SUCCESS)
        << runai_file_streamer_last_error();
    server_.wait_until_held(1);
  }
  // Takes a response without limit, in another thread. When this returns, that thread waits.
  std::future<Taken> take_in_background() {
    auto taken = std::async(std::launch::async, [this] {
      Taken response{};
      do {
        response = streamer_.take(0);
      } while (response.code == RUNAI_FILE_STREAMER_BUSY);
      return response;
    });
    while (streamer_.take(1).code != RUNAI_FILE_STREAMER_BUSY) std::this_thread::yield();
    return taken;
  }

  HoldingServer server_;
  TemporaryDirectory directory_;
  std::vector<char> slow_;
  std::vector<char> other_;
  Streamer streamer_;
};

TEST_F(CApiThreads, AResponseKeepsItsTimeoutWhileAnotherThreadOpensFiles) {
  request_held_range();
  auto requesting = std::async(std::launch::async, [this] {
    return streamer_.request(server_.url("/slow-open"), {{0, 10}}, &other_);
  });
  server_.wait_until_held(2);
  const Taken taken = returns_while_held(server_, [this] { return streamer_.take(50); });
  EXPECT_EQ(taken.code, RUNAI_FILE_STREAMER_TIMED_OUT);
  server_.release();
  EXPECT_EQ(requesting.get(), RUNAI_FILE_STREAMER_SUCCESS);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(streamer_.take().code, RUNAI_FILE_STREAMER_SUCCESS);
}

TEST_F(CApiThreads, ARangeThatFailsAtOnceWakesAResponseThatWaits) {
  request_held_range();
  auto taken = take_in_background();
  ASSERT_EQ(streamer_.request(directory_.at("missing"), {{0, 10}, {10, 10}}, &other_),
            RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(returns_while_held(server_, [&] { return taken.get().code; }),
            RUNAI_FILE_STREAMER_FILE_ACCESS);
  EXPECT_EQ(returns_while_held(server_, [this] { return streamer_.take().code; }),
            RUNAI_FILE_STREAMER_FILE_ACCESS);
  server_.release();
  EXPECT_EQ(streamer_.take().code, RUNAI_FILE_STREAMER_SUCCESS);
}

TEST_F(CApiThreads, ARequestDoesNotWaitForAResponse) {
  const std::string path = directory_.write("a", noise(1000, 1));
  request_held_range();
  auto taken = take_in_background();
  EXPECT_EQ(returns_while_held(server_,
                               [&] {
                                 return streamer_.request(path, {{0, 1000}}, &other_);
                               }),
            RUNAI_FILE_STREAMER_SUCCESS);
  server_.release();
  EXPECT_EQ(taken.get().code, RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(streamer_.take().code, RUNAI_FILE_STREAMER_SUCCESS);
}

TEST_F(CApiThreads, EndWakesARequestThatOpensAndAResponseThatWaits) {
  request_held_range();
  auto taken = take_in_background();
  auto requesting = std::async(std::launch::async, [this] {
    return streamer_.request(server_.url("/slow-open"), {{0, 10}}, &other_);
  });
  server_.wait_until_held(2);
  returns_while_held(server_, [this] {
    streamer_.end();
    return 0;
  });
  EXPECT_EQ(taken.get().code, RUNAI_FILE_STREAMER_FINISHED);
  (void)requesting.get();  // a file that was not opened in time is no error of the request
}

// What a program asks while it waits.
struct Question {
  std::atomic<bool> ends{false};
  std::atomic<int> asked{0};
  std::atomic<bool> throws{false};
  std::thread::id thread;  // that was asked

  static int ask(void* user) {
    auto* const self = static_cast<Question*>(user);
    self->thread = std::this_thread::get_id();
    ++self->asked;
    if (self->throws) throw std::runtime_error("of the callback");
    return self->ends ? 7 : 0;
  }
  void wait_until_asked() const {
    for (const int before = asked; asked == before;) std::this_thread::yield();
  }
};

class CApiInterrupt : public CApiThreads {
 protected:
  void SetUp() override {
    ASSERT_EQ(runai_file_streamer_set_interrupt(streamer_.get(), &Question::ask, &question_), 0);
  }
  // What `call` returns that waits until it is interrupted. Its thread is the one that is asked.
  template <typename Call>
  int interrupted(Call call) {
    question_.ends = false;
    auto result = std::async(std::launch::async, [&] {
      const int code = call();
      EXPECT_EQ(question_.thread, std::this_thread::get_id());
      return code;
    });
    question_.wait_until_asked();
    question_.ends = true;
    const int code = returns_while_held(server_, [&] { return result.get(); });
    question_.ends = false;
    return code;
  }

  Question question_;
};

TEST_F(CApiInterrupt, EndsARequestThatOpens) {
  EXPECT_EQ(interrupted([this] {
              return streamer_.request(server_.url("/slow-open"), {{0, 10}}, &other_);
            }),
            RUNAI_FILE_STREAMER_INTERRUPTED);
  EXPECT_EQ(streamer_.submission, 99U);
  EXPECT_EQ(streamer_.take(1).code, RUNAI_FILE_STREAMER_TIMED_OUT);  // nothing was requested
  server_.release();
  ASSERT_EQ(streamer_.request(server_.url("/slow-open"), {{0, 10}}, &other_), 0);
  EXPECT_EQ(streamer_.take().code, RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(std::string(other_.data(), 10), std::string(10, 'b'));
}

TEST_F(CApiInterrupt, EndsAResponseThatWaits) {
  const auto take = [this] {
    const Taken taken = streamer_.take(0);
    EXPECT_EQ(taken.submission, 99U);
    const std::string why = runai_file_streamer_last_error();
    EXPECT_NE(why.find("Interrupted"), std::string::npos) << why;
    return taken.code;
  };
  EXPECT_EQ(interrupted(take), RUNAI_FILE_STREAMER_INTERRUPTED);  // nothing was requested
  request_held_range();
  EXPECT_EQ(interrupted(take), RUNAI_FILE_STREAMER_INTERRUPTED);
  EXPECT_EQ(interrupted(take), RUNAI_FILE_STREAMER_INTERRUPTED);
  server_.release();
  const Taken taken = streamer_.take();
  EXPECT_EQ(taken.code, RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(taken.done, 1);
  EXPECT_EQ(std::string(slow_.data(), 50000), std::string(50000, 'b'));
}

TEST_F(CApiInterrupt, EndsAListThatWaits) {
  EXPECT_EQ(interrupted([this] {
              return runai_file_streamer_list_files(
                  streamer_.get(), server_.url("/slow-open/").c_str(), 1, nullptr, 0, nullptr, 0,
                  [](const char*, size_t, void*) { ADD_FAILURE(); }, nullptr);
            }),
            RUNAI_FILE_STREAMER_INTERRUPTED);
}

TEST_F(CApiInterrupt, IsAskedFromTheMomentItIsSet) {
  ASSERT_EQ(runai_file_streamer_set_interrupt(streamer_.get(), nullptr, nullptr), 0);
  question_.ends = true;
  EXPECT_EQ(streamer_.take(300).code, RUNAI_FILE_STREAMER_TIMED_OUT);
  EXPECT_EQ(question_.asked, 0);
  auto taken = take_in_background();  // without a request
  ASSERT_EQ(runai_file_streamer_set_interrupt(streamer_.get(), &Question::ask, &question_), 0);
  EXPECT_EQ(returns_while_held(server_, [&] { return taken.get().code; }),
            RUNAI_FILE_STREAMER_INTERRUPTED);
  ASSERT_EQ(runai_file_streamer_set_interrupt(streamer_.get(), nullptr, nullptr), 0);
  request_held_range();
  taken = take_in_background();
  ASSERT_EQ(runai_file_streamer_set_interrupt(streamer_.get(), &Question::ask, &question_), 0);
  EXPECT_EQ(returns_while_held(server_, [&] { return taken.get().code; }),
            RUNAI_FILE_STREAMER_INTERRUPTED);
}

TEST_F(CApiInterrupt, KeepsAnExceptionIn) {
  question_.throws = true;
  EXPECT_EQ(streamer_.take(0).code, RUNAI_FILE_STREAMER_INTERRUPTED);
  EXPECT_EQ(
      returns_while_held(server_,
                         [this] {
                           return streamer_.request(server_.url("/slow-open"), {{0, 10}}, &other_);
                         }),
      RUNAI_FILE_STREAMER_INTERRUPTED);
  EXPECT_EQ(returns_while_held(server_,
                               [this] {
                                 return runai_file_streamer_list_files(
                                     streamer_.get(), server_.url("/slow-open/").c_str(), 1,
                                     nullptr, 0, nullptr, 0, [](const char*, size_t, void*) {},
                                     nullptr);
                               }),
            RUNAI_FILE_STREAMER_INTERRUPTED);
}

TEST_F(CApiInterrupt, EndIsToldApart) {
  auto taken = take_in_background();
  question_.wait_until_asked();
  returns_while_held(server_, [this] {
    streamer_.end();
    return 0;
  });
  EXPECT_EQ(taken.get().code, RUNAI_FILE_STREAMER_FINISHED);
}

TEST_F(CApiThreads, EndEndsAListThatWaits) {
  auto listing = std::async(std::launch::async, [this] {
    return runai_file_streamer_list_files(
        streamer_.get(), server_.url("/slow-open/").c_str(), 1, nullptr, 0, nullptr, 0,
        [](const char*, size_t, void*) {}, nullptr);
  });
  server_.wait_until_held(1);
  returns_while_held(server_, [this] {
    streamer_.end();
    return 0;
  });
  EXPECT_EQ(listing.get(), RUNAI_FILE_STREAMER_FINISHED);
}

}  // namespace
#endif

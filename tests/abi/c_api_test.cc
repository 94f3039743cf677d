#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "c_streamer.h"
#include "streamer/runai_file_streamer.h"
#include "temporary.h"

extern "C" int start_by_c(void** streamer);

namespace {

class CApi : public testing::Test {
 protected:
  TemporaryDirectory directory_;
};

TEST_F(CApi, StreamsRangesIntoTheCallersMemoryOneResponseEach) {
  const std::vector<char> content = noise(3 << 20, 1);
  const std::string path = directory_.write("a.bin", content);
  Streamer streamer;
  std::vector<char> memory;
  const std::vector<std::pair<size_t, size_t>> ranges = {
      {0, 100}, {100, 2 << 20}, {5, 0}, {1 << 20, 1234}, {(3 << 20) - 7, 7}};
  ASSERT_EQ(streamer.request(path, ranges, &memory), RUNAI_FILE_STREAMER_SUCCESS);
  std::set<uint32_t> seen;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Taken taken = streamer.take();
    ASSERT_EQ(taken.code, RUNAI_FILE_STREAMER_SUCCESS) << runai_file_streamer_last_error();
    EXPECT_EQ(taken.submission, streamer.submission);
    EXPECT_EQ(taken.file, 0U);
    EXPECT_TRUE(seen.insert(taken.range).second);
    EXPECT_EQ(taken.done, i + 1 == ranges.size() ? 1 : 0);
  }
  const char* at = memory.data();
  for (const auto& [offset, size] : ranges) {
    EXPECT_EQ(std::memcmp(at, content.data() + offset, size), 0);
    at += size;
  }
  EXPECT_EQ(*at, 'x') << "nothing behind the last destination";
}

TEST_F(CApi, GroupsRangesByFileAndKeepsSubmissionsApart) {
  const std::vector<char> a = noise(5000, 1);
  const std::vector<char> b = noise(7000, 2);
  const std::string path_a = directory_.write("a", a);
  const std::string path_b = directory_.write("b", b);
  Streamer streamer;
  std::vector<char> memory(30000);
  // Twice the same: files a (2 ranges), a file without ranges, b (1 range).
  uint64_t ids[2];
  for (int turn = 0; turn < 2; ++turn) {
    const char* paths[] = {path_a.c_str(), path_b.c_str(), path_b.c_str()};
    const uint32_t counts[] = {2, 0, 1};
    const size_t offsets[] = {10, 4000, 6000};
    const size_t sizes[] = {1000, 1000, 1000};
    char* base = memory.data() + turn * 3000;
    void* destinations[] = {base, base + 1000, base + 2000};
    ASSERT_EQ(runai_file_streamer_request(streamer.get(), &ids[turn], 3, paths, counts, offsets,
                                          sizes, destinations, kCpu),
              RUNAI_FILE_STREAMER_SUCCESS);
  }
  EXPECT_NE(ids[0], ids[1]);
  std::map<uint64_t, std::set<std::pair<uint32_t, uint32_t>>> seen;
  std::map<uint64_t, int> done;
  for (int i = 0; i < 6; ++i) {
    const Taken taken = streamer.take();
    ASSERT_EQ(taken.code, RUNAI_FILE_STREAMER_SUCCESS);
    seen[taken.submission].insert({taken.file, taken.range});
    done[taken.submission] += taken.done;
  }
  const std::set<std::pair<uint32_t, uint32_t>> all = {{0, 0}, {0, 1}, {2, 0}};
  EXPECT_EQ(seen[ids[0]], all);
  EXPECT_EQ(seen[ids[1]], all);
  EXPECT_EQ(done[ids[0]], 1);
  EXPECT_EQ(done[ids[1]], 1);
  for (int turn = 0; turn < 2; ++turn) {
    const char* base = memory.data() + turn * 3000;
    EXPECT_EQ(std::memcmp(base, a.data() + 10, 1000), 0);
    EXPECT_EQ(std::memcmp(base + 1000, a.data() + 4000, 1000), 0);
    EXPECT_EQ(std::memcmp(base + 2000, b.data() + 6000, 1000), 0);
  }
}

TEST_F(CApi, AFileThatIsMissingFailsItsRangesOnly) {
  const std::string good = directory_.write("good", noise(100, 1));
  const std::string bad = directory_.at("bad");
  Streamer streamer;
  char memory[300];
  const char* paths[] = {bad.c_str(), good.c_str()};
  const uint32_t counts[] = {2, 1};
  const size_t offsets[] = {0, 50, 0};
  const size_t sizes[] = {50, 50, 100};
  void* destinations[] = {memory, memory + 100, memory + 200};
  uint64_t id = 0;
  ASSERT_EQ(runai_file_streamer_request(streamer.get(), &id, 2, paths, counts, offsets, sizes,
                                        destinations, kCpu),
            RUNAI_FILE_STREAMER_SUCCESS);
  std::map<std::pair<uint32_t, uint32_t>, int> codes;
  int done = 0;
  for (int i = 0; i < 3; ++i) {
    const Taken taken = streamer.take();
    codes[{taken.file, taken.range}] = taken.code;
    done += taken.done;
    if (taken.code != RUNAI_FILE_STREAMER_SUCCESS) {
      EXPECT_NE(std::string(runai_file_streamer_last_error()).find(bad), std::string::npos)
          << runai_file_streamer_last_error();
    } else {
      EXPECT_STREQ(runai_file_streamer_last_error(), "");
    }
  }
  EXPECT_EQ(done, 1);
  EXPECT_EQ((codes[{0, 0}]), RUNAI_FILE_STREAMER_FILE_ACCESS);
  EXPECT_EQ((codes[{0, 1}]), RUNAI_FILE_STREAMER_FILE_ACCESS);
  EXPECT_EQ((codes[{1, 0}]), RUNAI_FILE_STREAMER_SUCCESS);
}

TEST_F(CApi, ARangeBehindTheEndOfAFileIsEof) {
  const std::string path = directory_.write("short", noise(1000, 1));
  Streamer streamer;
  std::vector<char> memory;
  ASSERT_EQ(streamer.request(path, {{0, 1000}, {900, 200}}, &memory), 0);
  std::map<uint32_t, int> codes;
  for (int i = 0; i < 2; ++i) {
    const Taken taken = streamer.take();
    codes[taken.range] = taken.code;
  }
  EXPECT_EQ(codes[0], RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(codes[1], RUNAI_FILE_STREAMER_EOF);
}

TEST_F(CApi, ResponseTimesOutAndChangesNothing) {
  Streamer streamer;
  const Taken taken = streamer.take(1);
  EXPECT_EQ(taken.code, RUNAI_FILE_STREAMER_TIMED_OUT);
  EXPECT_EQ(taken.submission, 99U);
  EXPECT_EQ(taken.file, 99U);
  EXPECT_EQ(taken.range, 99U);
  EXPECT_EQ(taken.done, 99);
}

TEST_F(CApi, EndFromAnotherThreadFinishesAResponseThatWaits) {
  Streamer streamer;
  std::atomic<int> code{-1};
  std::thread waiting([&, handle = streamer.get()] {
    uint64_t submission;
    uint32_t file;
    uint32_t range;
    int done;
    do {
      code = runai_file_streamer_response(handle, &submission, &file, &range, &done, 0);
    } while (code == RUNAI_FILE_STREAMER_BUSY);
  });
  // The second waiter is told that the place is taken as soon as the first one is in.
  while (streamer.take(1).code != RUNAI_FILE_STREAMER_BUSY) std::this_thread::yield();
  streamer.end();
  waiting.join();
  EXPECT_EQ(code, RUNAI_FILE_STREAMER_FINISHED);
}

TEST_F(CApi, OneThreadRequestsWhileAnotherTakesResponses) {
  const std::vector<char> content = noise(1 << 20, 3);
  const std::string path = directory_.write("a", content);
  Streamer streamer;
  constexpr int kRequests = 50;
  std::vector<std::vector<char>> memory(kRequests);
  std::thread requesting([&] {
    for (int i = 0; i < kRequests; ++i) {
      int code;
      do {
        code = streamer.request(path, {{static_cast<size_t>(i), 1000}, {5000, 70000}}, &memory[i]);
      } while (code == RUNAI_FILE_STREAMER_BUSY);
      ASSERT_EQ(code, RUNAI_FILE_STREAMER_SUCCESS);
    }
  });
  int done = 0;
  for (int i = 0; i < 2 * kRequests; ++i) {
    const Taken taken = streamer.take(0);
    ASSERT_EQ(taken.code, RUNAI_FILE_STREAMER_SUCCESS);
    done += taken.done;
  }
  requesting.join();
  EXPECT_EQ(done, kRequests);
  for (int i = 0; i < kRequests; ++i) {
    EXPECT_EQ(std::memcmp(memory[i].data(), content.data() + i, 1000), 0);
    EXPECT_EQ(std::memcmp(memory[i].data() + 1000, content.data() + 5000, 70000), 0);
  }
}

TEST_F(CApi, EndWithRequestsInFlightReturnsAndNothingIsWrittenLater) {
  const std::string path = directory_.write("a", noise(8 << 20, 3));
  for (int round = 0; round < 20; ++round) {
    std::vector<char> memory;
    Streamer streamer;
    std::vector<std::pair<size_t, size_t>> ranges;
    for (size_t at = 0; at < 8 << 20; at += 1 << 18) ranges.push_back({at, 1 << 18});
    ASSERT_EQ(streamer.request(path, ranges, &memory), 0);
    streamer.end();
    const std::vector<char> before = memory;
    std::this_thread::yield();
    EXPECT_EQ(memory, before);
  }
}

TEST_F(CApi, AForkedChildStartsItsOwnAndMayEndTheParents) {
  const std::vector<char> content = noise(100000, 1);
  const std::string path = directory_.write("a", content);
  Streamer streamer;
  std::vector<char> memory;
  ASSERT_EQ(streamer.request(path, {{0, 100000}}, &memory), 0);
  ASSERT_EQ(streamer.take().code, 0);
  const pid_t child = fork();
  if (child == 0) {
    streamer.end();
    Streamer own;
    std::vector<char> copy;
    const bool good = own.request(path, {{0, 100000}}, &copy) == 0 && own.take().code == 0 &&
                      std::memcmp(copy.data(), content.data(), content.size()) == 0;
    own.end();
    _exit(good ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ASSERT_EQ(streamer.request(path, {{5, 1000}}, &memory), 0);
  EXPECT_EQ(streamer.take().code, 0);
}

// The parent's thread holds what the end of a streamer waits for.
TEST_F(CApi, AForkedChildMayEndAStreamerWhoseResponseIsAwaited) {
  Streamer streamer;
  std::atomic<int> code{-1};
  std::thread waiting([&] {
    do {
      code = streamer.take(0).code;
    } while (code == RUNAI_FILE_STREAMER_BUSY);
  });
  while (streamer.take(1).code != RUNAI_FILE_STREAMER_BUSY) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    std::vector<char> memory;
    const bool refused =
        streamer.request(directory_.at("a"), {{0, 1}}, &memory) == RUNAI_FILE_STREAMER_INVALID &&
        streamer.take(1).code == RUNAI_FILE_STREAMER_INVALID;
    streamer.end();
    _exit(refused ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  streamer.end();
  waiting.join();
  EXPECT_EQ(code, RUNAI_FILE_STREAMER_FINISHED);
}

TEST_F(CApi, CallableFromC) {
  void* streamer = nullptr;
  ASSERT_EQ(start_by_c(&streamer), 0);
  runai_file_streamer_end(streamer);
  EXPECT_STREQ(runai_file_streamer_version(), STREAMER_TEST_VERSION);
}

}  // namespace

// The codes that only failures of others lead to: storage servers, drivers, callbacks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "c_streamer.h"
#include "refusals.h"
#include "standin.h"
#include "streamer/runai_file_streamer.h"
#include "temporary.h"
#ifdef STREAMER_OBJECT_STORAGE
#include "tiny_server.h"
#endif

namespace {

class Codes : public testing::Test {
 protected:
  TemporaryDirectory directory_;
};

std::string last_error() { return runai_file_streamer_last_error(); }

// What a listing returns whose callback throws `exception`.
template <typename Exception>
int list_and_throw(const std::string& directory) {
  Streamer streamer;
  return runai_file_streamer_list_files(
      streamer.get(), directory.c_str(), 0, nullptr, 0, nullptr, 0,
      [](const char*, size_t, void* user) { throw *static_cast<Exception*>(user); },
      [] {
        static Exception exception = Exception();
        return &exception;
      }());
}

struct Oops : std::runtime_error {
  Oops() : std::runtime_error("oops of the callback") {}
};

TEST_F(Codes, AnExceptionOfACallbackIsUnknownAndKeptIn) {
  directory_.write("a", noise(10, 1));
  EXPECT_EQ(list_and_throw<Oops>(directory_.at("")), RUNAI_FILE_STREAMER_UNKNOWN);
  EXPECT_NE(last_error().find("oops of the callback"), std::string::npos) << last_error();
  EXPECT_EQ(list_and_throw<int>(directory_.at("")), RUNAI_FILE_STREAMER_UNKNOWN);
}

TEST_F(Codes, NoMemoryForACallbackIsAllocation) {
  directory_.write("a", noise(10, 1));
  EXPECT_EQ(list_and_throw<std::bad_alloc>(directory_.at("")), RUNAI_FILE_STREAMER_ALLOCATION);
}

TEST_F(Codes, ACLibraryThatIsTooOld) {
  refuse().glibc = "2.17";
  void* streamer = nullptr;
  EXPECT_EQ(runai_file_streamer_start(&streamer), RUNAI_FILE_STREAMER_GLIBC);
  EXPECT_NE(last_error().find("2.17"), std::string::npos) << last_error();
  EXPECT_EQ(streamer, nullptr);
  refuse().glibc = "2.28";
  EXPECT_EQ(runai_file_streamer_start(&streamer), RUNAI_FILE_STREAMER_SUCCESS);
  runai_file_streamer_end(streamer);
  refuse().glibc = nullptr;
}

// The code of the first byte of a file of sysfs, which has neither O_DIRECT nor mappings.
int code_of_strategy(const char* strategy, std::string* why = nullptr) {
  Streamer streamer;
  EXPECT_EQ(runai_file_streamer_set_fs_strategy(streamer.get(), strategy), 0);
  std::vector<char> memory;
  EXPECT_EQ(streamer.request("/sys/kernel/mm/transparent_hugepage/enabled", {{0, 1}}, &memory), 0);
  const int code = streamer.take().code;
  if (why != nullptr) *why = last_error();
  return code;
}

TEST_F(Codes, AStrategyThatTheFileSystemHasNot) {
  std::string why;
  EXPECT_EQ(code_of_strategy("direct", &why), RUNAI_FILE_STREAMER_STRATEGY_UNAVAILABLE);
  EXPECT_NE(why.find("O_DIRECT"), std::string::npos) << why;
  EXPECT_EQ(code_of_strategy("io_uring_direct,libaio_direct"),
            RUNAI_FILE_STREAMER_STRATEGY_UNAVAILABLE);
  EXPECT_EQ(code_of_strategy("io_uring_direct,libaio_direct,sync_buffered"),
            RUNAI_FILE_STREAMER_SUCCESS);
}

TEST_F(Codes, AStrategyThatTheSystemRefuses) {
  std::string why;
  EXPECT_EQ(code_of_strategy("mapped", &why), RUNAI_FILE_STREAMER_STRATEGY_FAILED);
  EXPECT_NE(why.find("errno"), std::string::npos) << why;
  EXPECT_EQ(code_of_strategy("mapped, auto"), RUNAI_FILE_STREAMER_SUCCESS);
}

#ifdef STREAMER_OBJECT_STORAGE
// The code of one range of `path`, which the request itself may have, too.
int code_of_range(const std::string& path, size_t offset, size_t size) {
  Streamer streamer;
  std::vector<char> memory;
  const int code = streamer.request(path, {{offset, size}}, &memory);
  return code == RUNAI_FILE_STREAMER_SUCCESS ? streamer.take().code : code;
}

TEST_F(Codes, AnObjectThatEndsBeforeTheRange) {
  const TinyServer server([content = std::string("0123456789")](const std::string& request) {
    unsigned first = 0;
    unsigned last = 9;
    const size_t range = request.find("bytes=");
    if (range != std::string::npos) {
      std::sscanf(request.c_str() + range, "bytes=%u-%u", &first, &last);
    }
    const std::string part = content.substr(first, last - first + 1);
    return "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nConnection: close\r\nContent-Range: "
           "bytes " +
           std::to_string(first) + "-" + std::to_string(first + part.size() - 1) +
           "/10\r\nContent-Length: " + std::to_string(part.size()) + "\r\n\r\n" + part;
  });
  EXPECT_EQ(code_of_range(server.url() + "/file", 0, 10), RUNAI_FILE_STREAMER_SUCCESS)
      << last_error();
  EXPECT_EQ(code_of_range(server.url() + "/file", 4, 7), RUNAI_FILE_STREAMER_SHORT_OBJECT);
}

TEST_F(Codes, ALibcurlThatCantBeInitialisedIsBackendLoad) {
  // In a process of its own: once it is initialised, it stays so.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto load = [] {
    refuse().libcurl = true;
    Streamer streamer;
    const int code = runai_file_streamer_list_files(
        streamer.get(), "http://127.0.0.1:1/directory/", 0, nullptr, 0, nullptr, 0,
        [](const char*, size_t, void*) {}, nullptr);
    std::fprintf(stderr, "code %d: %s\n", code, runai_file_streamer_last_error());
    std::exit(code);
  };
  EXPECT_EXIT(load(), testing::ExitedWithCode(RUNAI_FILE_STREAMER_BACKEND_LOAD), "libcurl");
}

// Embedders go on after code 2, and end the session on code 19.
TEST_F(Codes, AReadThatIsGivenUpIsFileAccessAndAListIsRetryable) {
  const Environment once("RUNAI_STREAMER_MAX_ATTEMPTS", "1");
  const TinyServer server([](const std::string&) {
    return "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  });
  EXPECT_EQ(code_of_range(server.url() + "/file", 0, 1), RUNAI_FILE_STREAMER_FILE_ACCESS);
  EXPECT_EQ(code_of_range("http://127.0.0.1:1/file", 0, 1), RUNAI_FILE_STREAMER_FILE_ACCESS);
  EXPECT_NE(last_error().find("127.0.0.1:1"), std::string::npos) << last_error();
  Streamer streamer;
  EXPECT_EQ(runai_file_streamer_list_files(
                streamer.get(), (server.url() + "/directory/").c_str(), 0, nullptr, 0, nullptr, 0,
                [](const char*, size_t, void*) {}, nullptr),
            RUNAI_FILE_STREAMER_RETRYABLE);
}
#endif

// A stand-in for the driver; its numbers are CUDA's.
class DeviceCodes : public Codes {
 protected:
  static constexpr int kRefusedMemory = 2;
  static constexpr int kNoDevice = 100;
  static constexpr int kIllegalAddress = 700;

  void SetUp() override {
    standin_reset(1, 1 << 28);
    standin_use(0);
    path_ = directory_.write("a", content_);
  }
  void TearDown() override { standin_reset(1, 1 << 28); }

  // The code of reading the file into memory of `device`.
  int load(int device = 0) {
    Streamer streamer;
    void* const memory = standin_alloc(0, content_.size());
    const char* paths[] = {path_.c_str()};
    const uint32_t counts[] = {1};
    const size_t offsets[] = {0};
    const size_t sizes[] = {content_.size()};
    void* destinations[] = {memory};
    uint64_t id = 0;
    int code = runai_file_streamer_request(streamer.get(), &id, 1, paths, counts, offsets, sizes,
                                           destinations, {RUNAI_FILE_STREAMER_DEVICE_CUDA, device});
    if (code == RUNAI_FILE_STREAMER_SUCCESS) code = streamer.take().code;
    text_ = last_error();
    loaded_ = std::equal(content_.begin(), content_.end(), static_cast<const char*>(memory));
    streamer.end();
    standin_free(memory);
    return code;
  }

  const std::vector<char> content_ = noise(1 << 20, 7);
  std::string path_;
  std::string text_;
  bool loaded_ = false;

 private:
  const Environment driver_{"RUNAI_STREAMER_CUDA_LIBRARY", STANDIN_CUDA};
};

TEST_F(DeviceCodes, ALoadSucceeds) {
  EXPECT_EQ(load(), RUNAI_FILE_STREAMER_SUCCESS) << text_;
  EXPECT_TRUE(loaded_);
}

TEST_F(DeviceCodes, NoDriverIsNoDevice) {
  const Environment none("RUNAI_STREAMER_CUDA_LIBRARY", directory_.at("none.so").c_str());
  EXPECT_EQ(load(), RUNAI_FILE_STREAMER_NO_DEVICE) << text_;
}

TEST_F(DeviceCodes, ADriverThatSeesNoDevice) {
  standin_fail("cuDeviceGetCount", 0, 1, kNoDevice, 0);
  EXPECT_EQ(load(), RUNAI_FILE_STREAMER_NO_DEVICE) << text_;
}

TEST_F(DeviceCodes, NoDeviceOfThatNumber) {
  EXPECT_EQ(load(7), RUNAI_FILE_STREAMER_DEVICE_ORDINAL) << text_;
}

TEST_F(DeviceCodes, PinnedMemoryThatIsRefusedIsAllocation) {
  standin_fail("cuMemHostRegister_v2", 0, 1000, kRefusedMemory, 0);
  EXPECT_EQ(load(), RUNAI_FILE_STREAMER_ALLOCATION) << text_;
}

TEST_F(DeviceCodes, ACopyThatCantBeStartedIsTransfer) {
  standin_fail("cuMemcpyHtoDAsync_v2", 0, 1, kIllegalAddress, 0);
  EXPECT_EQ(load(), RUNAI_FILE_STREAMER_TRANSFER) << text_;
}

TEST_F(DeviceCodes, ACopyThatFailsOnTheDeviceIsTransfer) {
  standin_fail("run copy", 0, 1, kIllegalAddress, 1);
  EXPECT_EQ(load(), RUNAI_FILE_STREAMER_TRANSFER) << text_;
}

TEST_F(DeviceCodes, AnyOtherFailureOfTheDriver) {
  standin_fail("cuStreamCreate", 0, 1, kIllegalAddress, 0);
  EXPECT_EQ(load(), RUNAI_FILE_STREAMER_DRIVER) << text_;
}

}  // namespace

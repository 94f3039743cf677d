// What the C ABI refuses, and what it is told besides ranges.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "c_streamer.h"
#include "streamer/runai_file_streamer.h"
#include "temporary.h"

namespace {

class CApiArguments : public testing::Test {
 protected:
  TemporaryDirectory directory_;
};

TEST_F(CApiArguments, RefusesBadArguments) {
  const std::string path = directory_.write("a", noise(100, 1));
  Streamer streamer;
  char memory[100];
  const char* paths[] = {path.c_str()};
  const char* null_path[] = {nullptr};
  const uint32_t one[] = {1};
  const size_t zero[] = {0};
  const size_t hundred[] = {100};
  const size_t huge[] = {SIZE_MAX};
  void* destination[] = {memory};
  void* null_destination[] = {nullptr};
  uint64_t id;
  const auto request = [&](uint32_t files, const char** names, const uint32_t* counts,
                           const size_t* offsets, const size_t* sizes, void* const* to,
                           RunaiFileStreamerDevice device = kCpu) {
    const int code = runai_file_streamer_request(streamer.get(), &id, files, names, counts, offsets,
                                                 sizes, to, device);
    EXPECT_STRNE(runai_file_streamer_last_error(), "");
    return code;
  };
  EXPECT_EQ(request(1, nullptr, one, zero, hundred, destination), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, null_path, one, zero, hundred, destination), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, paths, nullptr, zero, hundred, destination), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, paths, one, nullptr, hundred, destination), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, paths, one, zero, nullptr, destination), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, paths, one, zero, hundred, nullptr), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, paths, one, zero, hundred, null_destination), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, paths, one, hundred, huge, destination), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(request(1, paths, one, zero, hundred, destination, {2, 0}),
            RUNAI_FILE_STREAMER_DEVICE_TYPE);
  EXPECT_EQ(request(1, paths, one, zero, hundred, destination, {1, -1}),
            RUNAI_FILE_STREAMER_DEVICE_ORDINAL);
  EXPECT_EQ(
      runai_file_streamer_request(nullptr, &id, 1, paths, one, zero, hundred, destination, kCpu),
      RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_file_streamer_start(nullptr), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_file_streamer_set_interrupt(nullptr, nullptr, nullptr),
            RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_file_streamer_response(streamer.get(), nullptr, nullptr, nullptr, nullptr, 1),
            RUNAI_FILE_STREAMER_INVALID);
  runai_file_streamer_end(nullptr);
  // None of them is in the way of a good one.
  std::vector<char> into;
  EXPECT_EQ(streamer.request(path, {{0, 100}}, &into), RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(streamer.take().done, 1);
}

TEST_F(CApiArguments, NamesASettingThatIsInvalid) {
  const Environment bad("RUNAI_STREAMER_CONCURRENCY", "many");
  const std::string path = directory_.write("a", noise(10, 1));
  Streamer streamer;
  std::vector<char> memory;
  EXPECT_EQ(streamer.request(path, {{0, 10}}, &memory), RUNAI_FILE_STREAMER_INVALID);
  const std::string text = runai_file_streamer_last_error();
  EXPECT_NE(text.find("RUNAI_STREAMER_CONCURRENCY"), std::string::npos) << text;
  EXPECT_NE(text.find("many"), std::string::npos) << text;
}

TEST_F(CApiArguments, RefusesPathsOfTwoKindsAndUnknownSchemes) {
  const std::string path = directory_.write("a", noise(10, 1));
  Streamer streamer;
  char memory[20];
  const char* paths[] = {path.c_str(), "s3://bucket/key"};
  const uint32_t counts[] = {1, 1};
  const size_t offsets[] = {0, 0};
  const size_t sizes[] = {10, 10};
  void* destinations[] = {memory, memory + 10};
  uint64_t id;
  EXPECT_EQ(runai_file_streamer_request(streamer.get(), &id, 2, paths, counts, offsets, sizes,
                                        destinations, kCpu),
            RUNAI_FILE_STREAMER_MIXED_BACKENDS);
  std::vector<char> into;
  EXPECT_EQ(streamer.request("ftp://host/file", {{0, 1}}, &into), RUNAI_FILE_STREAMER_INVALID);
}

#ifdef STREAMER_OBJECT_STORAGE
TEST_F(CApiArguments, SaysThatACaFileIsMissing) {
  const Environment bundle("AWS_CA_BUNDLE", directory_.at("no-such.pem").c_str());
  Streamer streamer;
  std::vector<char> memory;
  EXPECT_EQ(streamer.request("s3://bucket/key", {{0, 1}}, &memory),
            RUNAI_FILE_STREAMER_CA_FILE_NOT_FOUND);
  EXPECT_NE(std::string(runai_file_streamer_last_error()).find("AWS_CA_BUNDLE"), std::string::npos);
}
#else
TEST_F(CApiArguments, SaysWhichStorageThisBuildLeavesOut) {
  const std::vector<std::pair<const char*, int>> kinds = {
      {"s3://b/k", RUNAI_FILE_STREAMER_S3_NOT_SUPPORTED},
      {"gs://b/k", RUNAI_FILE_STREAMER_GCS_NOT_SUPPORTED},
      {"az://b/k", RUNAI_FILE_STREAMER_AZURE_NOT_SUPPORTED},
      {"https://h/k", RUNAI_FILE_STREAMER_INVALID}};
  for (const auto& [path, code] : kinds) {
    Streamer streamer;
    std::vector<char> memory;
    int got = streamer.request(path, {{0, 1}}, &memory);
    if (got == RUNAI_FILE_STREAMER_SUCCESS) got = streamer.take().code;
    EXPECT_EQ(got, code) << path;
  }
}
#endif

TEST_F(CApiArguments, SaysThatNoDescriptorsAreLeft) {
  const std::string path = directory_.write("a", noise(10, 1));
  Streamer streamer;
  std::vector<char> memory;
  ASSERT_EQ(streamer.request(path, {{0, 10}}, &memory), 0);  // the engine runs
  ASSERT_EQ(streamer.take().code, 0);
  const std::string other = directory_.write("b", noise(10, 1));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const int requested = streamer.request(other, {{0, 10}}, &memory);
  const int code = requested == 0 ? streamer.take().code : requested;
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(code, RUNAI_FILE_STREAMER_FD_LIMIT);
}

TEST_F(CApiArguments, TakesCredentialsOnceAndTheSameAgain) {
  Streamer streamer;
  const char* keys[] = {"access_key_id", "secret_access_key", "session_token", "region",
                        "endpoint"};
  const char* values[] = {"AKIA", "s3cr3t", "token", "eu-west-1", "http://127.0.0.1:1"};
  EXPECT_EQ(runai_file_streamer_set_credentials(streamer.get(), keys, values, 5), 0);
  EXPECT_EQ(runai_file_streamer_set_credentials(streamer.get(), keys, values, 5), 0);
  const char* others[] = {"AKIB", "s3cr3t", "token", "eu-west-1", "http://127.0.0.1:1"};
  EXPECT_EQ(runai_file_streamer_set_credentials(streamer.get(), keys, others, 5),
            RUNAI_FILE_STREAMER_CREDENTIALS_SET);
  EXPECT_EQ(std::string(runai_file_streamer_last_error()).find("s3cr3t"), std::string::npos);
  const char* fewer[] = {"password"};
  EXPECT_EQ(runai_file_streamer_set_credentials(streamer.get(), fewer, values, 1),
            RUNAI_FILE_STREAMER_CREDENTIALS_SET);
  EXPECT_EQ(runai_file_streamer_set_credentials(streamer.get(), nullptr, nullptr, 1),
            RUNAI_FILE_STREAMER_INVALID);
  Streamer another;
  EXPECT_EQ(runai_file_streamer_set_credentials(another.get(), keys, others, 5), 0);
}

TEST_F(CApiArguments, CarriesAlongCredentialsOfUnknownKeys) {
  const std::string path = directory_.write("a", noise(100, 1));
  Streamer streamer;
  const char* keys[] = {"password", "region"};
  const char* values[] = {"s3cr3t", "eu-west-1"};
  EXPECT_EQ(runai_file_streamer_set_credentials(streamer.get(), keys, values, 2), 0);
  EXPECT_EQ(runai_file_streamer_set_credentials(streamer.get(), keys, values, 2), 0);
  std::vector<char> into;
  ASSERT_EQ(streamer.request(path, {{0, 100}}, &into), 0);
  EXPECT_EQ(streamer.take().code, 0);
}

TEST_F(CApiArguments, EmptyRequestsHaveANumberAndOweNothing) {
  const std::vector<char> content = noise(100, 1);
  const std::string path = directory_.write("a", content);
  const std::string missing = directory_.at("missing");
  Streamer streamer;
  const char* paths[] = {path.c_str(), missing.c_str()};
  const uint32_t none[] = {0, 0};
  std::set<uint64_t> ids;
  const auto empty = [&](uint32_t files, const char** names, const uint32_t* counts) {
    uint64_t id = ~0ULL;
    EXPECT_EQ(runai_file_streamer_request(streamer.get(), &id, files, names, counts, nullptr,
                                          nullptr, nullptr, kCpu),
              RUNAI_FILE_STREAMER_SUCCESS);
    EXPECT_TRUE(ids.insert(id).second) << id;
  };
  const auto nothing_is_owed = [&] {
    uint64_t id = 0;
    uint32_t file = 0;
    uint32_t range = 0;
    int done = 0;
    EXPECT_EQ(runai_file_streamer_response(streamer.get(), &id, &file, &range, &done, 25),
              RUNAI_FILE_STREAMER_TIMED_OUT);
  };
  empty(0, nullptr, nullptr);
  empty(2, paths, none);
  nothing_is_owed();
  // Between requests that owe something, in any order.
  std::vector<char> first;
  std::vector<char> second;
  ASSERT_EQ(streamer.request(path, {{0, 100}}, &first), 0);
  empty(1, paths, none);
  ASSERT_EQ(streamer.request(path, {{50, 50}, {0, 0}}, &second), 0);
  empty(0, paths, none);
  int done = 0;
  for (int i = 0; i < 3; ++i) {
    const Taken answer = streamer.take();
    EXPECT_EQ(answer.code, 0);
    EXPECT_EQ(ids.count(answer.submission), 0U);
    done += answer.done;
  }
  EXPECT_EQ(done, 2);
  EXPECT_EQ(std::memcmp(first.data(), content.data(), 100), 0);
  nothing_is_owed();
}

TEST_F(CApiArguments, StrategyIsKnownByNameAndUsed) {
  const std::vector<char> content = noise(1 << 20, 9);
  const std::string path = directory_.write("a", content);
  for (const char* strategy :
       {"auto", "mapped", "buffered", "direct", "io_uring_direct,libaio_direct,sync_buffered"}) {
    Streamer streamer;
    ASSERT_EQ(runai_file_streamer_set_fs_strategy(streamer.get(), strategy), 0);
    std::vector<char> memory;
    ASSERT_EQ(streamer.request(path, {{3, (1 << 20) - 3}}, &memory), 0);
    ASSERT_EQ(streamer.take().code, 0) << strategy << ": " << runai_file_streamer_last_error();
    EXPECT_EQ(std::memcmp(memory.data(), content.data() + 3, content.size() - 3), 0) << strategy;
    EXPECT_EQ(runai_file_streamer_set_fs_strategy(streamer.get(), strategy), 0);
  }
}

TEST_F(CApiArguments, StrategyIsSetOnce) {
  const std::string path = directory_.write("a", noise(100, 1));
  Streamer streamer;
  const auto set = [&](const char* candidates) {
    return runai_file_streamer_set_fs_strategy(streamer.get(), candidates);
  };
  for (const char* wrong : {"", " ", "psychic", "direct,", ",direct", "direct,psychic",
                            "direct,direct", "direct, DIRECT"}) {
    EXPECT_EQ(set(wrong), RUNAI_FILE_STREAMER_INVALID) << wrong;
    EXPECT_STRNE(runai_file_streamer_last_error(), "");
  }
  EXPECT_EQ(set(nullptr), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(runai_file_streamer_set_fs_strategy(nullptr, "direct"), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(set("direct,buffered"), 0);
  EXPECT_EQ(set(" Direct, buffered"), 0);
  EXPECT_EQ(set("buffered,direct"), RUNAI_FILE_STREAMER_STRATEGY_SET);
  EXPECT_EQ(set("direct"), RUNAI_FILE_STREAMER_STRATEGY_SET);
  EXPECT_EQ(set("psychic"), RUNAI_FILE_STREAMER_INVALID);
  EXPECT_EQ(set("direct,buffered"), 0);

  Streamer started;
  std::vector<char> memory;
  ASSERT_EQ(started.request(path, {{0, 100}}, &memory), 0);
  EXPECT_EQ(runai_file_streamer_set_fs_strategy(started.get(), "direct"),
            RUNAI_FILE_STREAMER_STRATEGY_SET);
  EXPECT_EQ(started.take().code, 0);
}

TEST_F(CApiArguments, StreamersHaveTheirOwnStrategies) {
  // A file of sysfs has neither O_DIRECT nor mappings.
  const char* const path = "/sys/kernel/mm/transparent_hugepage/enabled";
  Streamer direct;
  Streamer buffered;
  Streamer mapped;
  ASSERT_EQ(runai_file_streamer_set_fs_strategy(direct.get(), "direct"), 0);
  ASSERT_EQ(runai_file_streamer_set_fs_strategy(buffered.get(), "buffered"), 0);
  ASSERT_EQ(runai_file_streamer_set_fs_strategy(mapped.get(), "mapped"), 0);
  const auto read = [&](Streamer& streamer) {
    std::vector<char> memory;
    EXPECT_EQ(streamer.request(path, {{0, 1}}, &memory), 0);
    return streamer.take().code;
  };
  EXPECT_EQ(read(direct), RUNAI_FILE_STREAMER_STRATEGY_UNAVAILABLE);
  EXPECT_EQ(read(buffered), RUNAI_FILE_STREAMER_SUCCESS);
  EXPECT_EQ(read(mapped), RUNAI_FILE_STREAMER_STRATEGY_FAILED);
  EXPECT_EQ(read(direct), RUNAI_FILE_STREAMER_STRATEGY_UNAVAILABLE);
}

TEST_F(CApiArguments, ListsFilesWithPatterns) {
  const std::vector<std::string> names = {"b.safetensors", "a.safetensors", "c.json",
                                          "sub/d.safetensors"};
  for (const std::string& name : names) directory_.write(name, noise(name.size(), 1));
  Streamer streamer;
  using Found = std::vector<std::pair<std::string, size_t>>;
  const auto list = [&](bool recursive, std::vector<const char*> allow,
                        std::vector<const char*> ignore) {
    Found found;
    const int code = runai_file_streamer_list_files(
        streamer.get(), directory_.at("").c_str(), recursive ? 1 : 0, allow.data(),
        static_cast<unsigned>(allow.size()), ignore.data(), static_cast<unsigned>(ignore.size()),
        [](const char* path, size_t size, void* user) {
          static_cast<Found*>(user)->emplace_back(path, size);
        },
        &found);
    EXPECT_EQ(code, 0) << runai_file_streamer_last_error();
    return found;
  };
  const std::pair<std::string, size_t> a{directory_.at("a.safetensors"), 13};
  const std::pair<std::string, size_t> b{directory_.at("b.safetensors"), 13};
  const std::pair<std::string, size_t> c{directory_.at("c.json"), 6};
  const std::pair<std::string, size_t> d{directory_.at("sub/d.safetensors"), 17};
  EXPECT_EQ(list(false, {}, {}), (Found{a, b, c}));
  EXPECT_EQ(list(true, {}, {}), (Found{a, b, c, d}));
  EXPECT_EQ(list(true, {"*.safetensors"}, {}), (Found{a, b, d}));
  EXPECT_EQ(list(true, {"*.safetensors", "*.json"}, {"*/sub/*", "*/a.*"}), (Found{b, c}));

  const auto ignore_all = [](const char*, size_t, void*) {};
  EXPECT_EQ(runai_file_streamer_list_files(streamer.get(), directory_.at("none").c_str(), 0,
                                           nullptr, 0, nullptr, 0, ignore_all, nullptr),
            RUNAI_FILE_STREAMER_FILE_ACCESS);
  EXPECT_EQ(runai_file_streamer_list_files(streamer.get(), nullptr, 0, nullptr, 0, nullptr, 0,
                                           ignore_all, nullptr),
            RUNAI_FILE_STREAMER_INVALID);
}

TEST_F(CApiArguments, ProbesTheBlockSizeOfDirectReads) {
  const std::string path = directory_.write("a", noise(10000, 1));
  Streamer streamer;
  const char* paths[] = {path.c_str(), "s3://bucket/key"};
  size_t block = 0;
  ASSERT_EQ(runai_file_streamer_probe_direct_block_size(streamer.get(), paths, 2, &block), 0);
  EXPECT_GE(block, 1U);
  EXPECT_EQ(block & (block - 1), 0U) << block;
  ASSERT_EQ(runai_file_streamer_probe_direct_block_size(streamer.get(), paths + 1, 1, &block), 0);
  EXPECT_EQ(block, 1U);
  const std::string missing = directory_.at("none");
  paths[0] = missing.c_str();
  EXPECT_EQ(runai_file_streamer_probe_direct_block_size(streamer.get(), paths, 1, &block),
            RUNAI_FILE_STREAMER_FILE_ACCESS);
}

TEST_F(CApiArguments, EveryCodeHasItsOwnDescription) {
  std::set<std::string> texts;
  for (int code = 0; code <= 28; ++code) {
    const char* text = runai_file_streamer_response_str(code);
    ASSERT_NE(text, nullptr);
    EXPECT_TRUE(texts.insert(text).second) << code;
  }
  EXPECT_TRUE(texts.insert(runai_file_streamer_response_str(100)).second);
  EXPECT_STREQ(runai_file_streamer_response_str(0), "Success");
  EXPECT_STREQ(runai_file_streamer_response_str(2), "File access error");
  EXPECT_EQ(texts.count(runai_file_streamer_response_str(-1)), 0U);
  EXPECT_STREQ(runai_file_streamer_response_str(29), runai_file_streamer_response_str(-1));
}

}  // namespace

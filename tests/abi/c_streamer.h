// What tests of the C ABI share: a streamer that ends itself, and variables of the environment.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "streamer/runai_file_streamer.h"

inline constexpr RunaiFileStreamerDevice kCpu{RUNAI_FILE_STREAMER_DEVICE_CPU, 0};

// A variable of the environment that goes back to what it was.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    if (value != nullptr) {
      setenv(name, value, 1);
    } else {
      unsetenv(name);
    }
  }
  ~Environment() {
    if (before_.empty()) {
      unsetenv(name_);
    } else {
      setenv(name_, before_.c_str(), 1);
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::string before_;
};

struct Taken {
  int code;
  uint64_t submission = 99;
  uint32_t file = 99;
  uint32_t range = 99;
  int done = 99;
};

class Streamer {
 public:
  Streamer() { EXPECT_EQ(runai_file_streamer_start(&handle_), RUNAI_FILE_STREAMER_SUCCESS); }
  ~Streamer() { end(); }
  Streamer(const Streamer&) = delete;
  Streamer& operator=(const Streamer&) = delete;

  void end() {
    runai_file_streamer_end(handle_);
    handle_ = nullptr;
  }
  void* get() const { return handle_; }

  // Ranges of one file into `memory`, one behind the other.
  int request(const std::string& path, const std::vector<std::pair<size_t, size_t>>& ranges,
              std::vector<char>* memory, RunaiFileStreamerDevice device = kCpu) {
    std::vector<size_t> offsets;
    std::vector<size_t> sizes;
    size_t total = 0;
    for (const auto& [offset, size] : ranges) {
      offsets.push_back(offset);
      sizes.push_back(size);
      total += size;
    }
    memory->assign(total + 1, 'x');
    std::vector<void*> destinations;
    char* at = memory->data();
    for (const size_t size : sizes) {
      destinations.push_back(size == 0 ? nullptr : at);
      at += size;
    }
    const char* paths[] = {path.c_str()};
    const uint32_t counts[] = {static_cast<uint32_t>(ranges.size())};
    return runai_file_streamer_request(handle_, &submission, 1, paths, counts, offsets.data(),
                                       sizes.data(), destinations.data(), device);
  }

  Taken take(unsigned timeout_ms = 30000) const {
    Taken taken{};
    taken.submission = taken.file = taken.range = 99;
    taken.done = 99;
    taken.code = runai_file_streamer_response(handle_, &taken.submission, &taken.file, &taken.range,
                                              &taken.done, timeout_ms);
    return taken;
  }

  uint64_t submission = 99;

 private:
  void* handle_ = nullptr;
};

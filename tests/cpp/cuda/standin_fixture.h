// What the tests of GPU destinations share: the stand-in driver, files, and a stream to load them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/memory_units.h"
#include "standin.h"
#include "streamer/stream.h"

namespace streamer {

// Two devices of 1 GiB; device 0 in use, as a framework would have it.
class StandinTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // A file of `size` bytes that depend on their offsets and on `seed`.
  std::string make_file(const std::string& name, std::uint64_t size, std::uint32_t seed = 1);
  static std::vector<std::byte> content(std::uint64_t size, std::uint32_t seed = 1);

  // Options that use the stand-in; `settings` override.
  static Options options(std::map<std::string, std::string> settings = {});
  static standin_counts counts();

  // Delivers everything that was submitted; the status of each range in order of submission.
  static std::vector<Status> drain(Stream& stream, std::size_t ranges);

  std::filesystem::path directory_;
};

// Device memory that frees itself.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::uint64_t size, int device = 0)
      : data(static_cast<std::byte*>(standin_alloc(device, size))), size(size) {}
  ~DeviceMemory() {
    if (data != nullptr) standin_free(data);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  std::vector<std::byte> bytes() const { return {data, data + size}; }

  std::byte* const data;
  const std::uint64_t size;
};

}  // namespace streamer

// Reads files. A chunk is served from the page cache where it is cached, whatever the strategy.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "source/file/file_object.h"
#include "source/source.h"

namespace streamer {

class FileReader final : public Reader {
 public:
  explicit FileReader(std::string strategy, bool only = false)
      : strategy_(std::move(strategy)), only_(only) {}
  ~FileReader() override;

  Result<Opened> open(const std::string& path, std::span<std::byte> prefix) override;
  Status read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
              ReadReport* report) override;
  Status fault_in(const Object& object, std::uint64_t offset, std::uint64_t size,
                  ReadReport* report) override;
  Status list(const std::string& prefix, bool recursive, const ListCallback& found) override;

 private:
  Status read_direct(const FileObject& file, int direct, std::uint64_t offset,
                     std::vector<iovec>* segments, ReadReport* report);

  std::string strategy_;
  bool only_;
  std::byte* bounce_ = nullptr;  // aligned memory for O_DIRECT, small enough to stay in the cache
};

}  // namespace streamer

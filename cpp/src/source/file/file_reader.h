// Reads files. A chunk that is in the page cache is read from there, whatever the strategy.
#pragma once

#include <string>
#include <vector>

#include "source/file/file_object.h"
#include "source/source.h"

namespace streamer {

class FileReader final : public Reader {
 public:
  explicit FileReader(FsPreference preference) : preference_(preference) {}
  ~FileReader() override;

  Result<Opened> open(const std::string& path, std::span<std::byte> prefix) override;
  Status read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
              ReadReport* report) override;
  Status fault_in(const Object& object, std::uint64_t offset, std::uint64_t size,
                  ReadReport* report) override;
  Status list(const std::string& prefix, bool recursive, const ListCallback& found) override;

 private:
  Status read_past_cache(const FileObject& file, std::uint64_t offset, std::vector<iovec> segments,
                         ReadReport* report);
  Status read_direct(const FileObject& file, std::uint64_t offset, std::vector<iovec>* segments,
                     ReadReport* report);

  const FsPreference preference_;
  std::byte* bounce_ = nullptr;  // aligned memory for O_DIRECT, small enough to stay in the cache
  std::uint64_t bounce_bytes_ = 0;
};

}  // namespace streamer

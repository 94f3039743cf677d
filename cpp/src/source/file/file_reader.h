// Reads files. A chunk that is in the page cache is read from there, by any strategy.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/memory_budget.h"
#include "source/file/file_object.h"
#include "source/file/file_systems.h"
#include "source/source.h"

namespace streamer {

class FileReader final : public Reader {
 public:
  // A bounce buffer of more than the least size counts against `budget`, if there is one.
  explicit FileReader(FsPreference preference,
                      std::shared_ptr<FileSystems> systems = std::make_shared<FileSystems>(),
                      MemoryBudget* budget = nullptr)
      : preference_(preference), systems_(std::move(systems)), budget_(budget) {}
  ~FileReader() override;

  Result<Opened> open(const std::string& path, std::span<std::byte> prefix) override;
  Status read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
              ReadReport* report) override;
  Status prefault(const Object& object, std::uint64_t offset, std::uint64_t size,
                  ReadReport* report) override;
  Status list(const std::string& prefix, bool recursive, const ListCallback& found) override;

 private:
  // Segments without large gaps; `direct` is for files that have no trial.
  Status read_run(const FileObject& file, std::uint64_t offset, std::vector<iovec> segments,
                  bool direct, ReadReport* report);
  Status read_by_trial(const FileObject& file, std::uint64_t offset, std::vector<iovec>* segments,
                       ReadReport* report);
  Status read_direct(const FileObject& file, std::uint64_t* offset, std::vector<iovec>* segments,
                     ReadReport* report);

  // Has a bounce buffer of up to `bytes`, as memory permits; its size.
  std::uint64_t provide_bounce(std::uint64_t bytes);

  const FsPreference preference_;
  const std::shared_ptr<FileSystems> systems_;
  MemoryBudget* const budget_;
  std::byte* bounce_ = nullptr;  // aligned memory for O_DIRECT, small enough to stay in the cache
  std::uint64_t bounce_bytes_ = 0;
  std::uint64_t counted_ = 0;  // bytes that the budget was asked for
};

}  // namespace streamer

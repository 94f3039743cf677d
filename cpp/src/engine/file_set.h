// The sources and the files of a stream.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/cancel.h"
#include "base/mutex.h"
#include "engine/plan.h"
#include "source/source.h"

namespace streamer {

// Thread-safe.
class FileSet {
 public:
  // Called once for each source, before its first use.
  using OnNewSource = std::function<void(SourceKind, const SourceTraits&)>;

  // The options, the token and the budget outlive the set.
  FileSet(const Options& options, const CancelToken& cancel, MemoryBudget* budget,
          OnNewSource on_new_source)
      : context_{options, cancel, budget}, on_new_source_(std::move(on_new_source)) {}

  // The source of that kind, which lives as long as the set. It is made at its first use.
  Result<Source*> source(SourceKind kind) EXCLUDES(mutex_);

  // Adds entries for `count` files that are not open yet; returns the index of the first.
  std::uint32_t reserve(std::size_t count) EXCLUDES(mutex_);
  void set(std::uint32_t index, std::shared_ptr<FileState> file) EXCLUDES(mutex_);
  // Null if there is none of that index, or not yet.
  std::shared_ptr<const FileState> at(std::uint32_t index) const EXCLUDES(mutex_);
  // Every file that was opened, and null for the others.
  FileTable all() const EXCLUDES(mutex_);
  // Adds the notes of the sources, by topic.
  void describe(std::map<std::string, std::string>* notes) const EXCLUDES(mutex_);
  // See find_files().
  Status find(Submission* submission) const EXCLUDES(mutex_);

 private:
  const SourceContext context_;
  const OnNewSource on_new_source_;
  mutable Mutex mutex_;
  std::array<std::unique_ptr<Source>, kSourceKinds> sources_ GUARDED_BY(mutex_);
  FileTable files_ GUARDED_BY(mutex_);
};

}  // namespace streamer

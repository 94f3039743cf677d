#include "engine/file_set.h"

#include <utility>

namespace streamer {

Result<Source*> FileSet::source(SourceKind kind) {
  const MutexLock lock(mutex_);
  std::unique_ptr<Source>& source = sources_[static_cast<int>(kind)];
  if (!source) {
    auto made = make_source(kind, context_);
    if (!made.ok()) return made.status();
    on_new_source_(kind, (*made)->traits());
    source = std::move(*made);
  }
  return source.get();
}

std::uint32_t FileSet::reserve(std::size_t count) {
  const MutexLock lock(mutex_);
  const auto first = static_cast<std::uint32_t>(files_.size());
  files_.resize(files_.size() + count);
  return first;
}

void FileSet::set(std::uint32_t index, std::shared_ptr<FileState> file) {
  const MutexLock lock(mutex_);
  files_[index] = std::move(file);
}

std::shared_ptr<const FileState> FileSet::at(std::uint32_t index) const {
  const MutexLock lock(mutex_);
  return index < files_.size() ? files_[index] : nullptr;
}

FileTable FileSet::all() const {
  const MutexLock lock(mutex_);
  return files_;
}

void FileSet::describe(std::map<std::string, std::string>* notes) const {
  const MutexLock lock(mutex_);
  for (const auto& source : sources_) {
    if (source) source->describe(notes);
  }
}

Status FileSet::find(Submission* submission) const {
  const MutexLock lock(mutex_);
  return find_files(files_, submission);
}

}  // namespace streamer

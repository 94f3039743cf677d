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

std::uint32_t FileSet::add(FileTable files) {
  const MutexLock lock(mutex_);
  const auto first = static_cast<std::uint32_t>(files_.size());
  files_.insert(files_.end(), std::make_move_iterator(files.begin()),
                std::make_move_iterator(files.end()));
  return first;
}

std::shared_ptr<const FileState> FileSet::at(std::uint32_t index) const {
  const MutexLock lock(mutex_);
  return index < files_.size() ? files_[index] : nullptr;
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

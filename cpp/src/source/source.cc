#include "source/source.h"

#include "base/memory_map.h"

namespace streamer {

Status Object::detach_view(std::uint64_t offset, std::uint64_t size, std::byte* memory) const {
  unmap_memory(memory, size);
  return Status::error(Code::kInternal, "this kind of storage has no views to detach")
      .with_path(path())
      .with_range(offset, size);
}

Status Reader::prefault(const Object& object, std::uint64_t offset, std::uint64_t size,
                        ReadReport* /*report*/) {
  return Status::error(Code::kInternal, "this kind of storage has no views")
      .with_path(object.path())
      .with_range(offset, size);
}

Result<Access> Reader::access(const std::string& path) {
  return Status::error(Code::kInvalid, "files have no endpoint").with_path(path);
}

}  // namespace streamer

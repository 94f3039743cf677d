#include "c_api/direct_block.h"

#include <algorithm>

#include "c_api/codes.h"
#include "streamer/storage.h"

namespace streamer::c_api {

CallResult probe_direct_block(std::span<const char*> paths, std::size_t* block) {
  std::size_t widest = 1;
  for (const char* path : paths) {
    const auto needed = direct_read_alignment(path);
    if (!needed.ok()) {
      return {code_of(needed.status(), SourceKind::kFile), needed.status().to_string()};
    }
    widest = std::max(widest, static_cast<std::size_t>(*needed));
  }
  *block = widest;
  return {};
}

}  // namespace streamer::c_api

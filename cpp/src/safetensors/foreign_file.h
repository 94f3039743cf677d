// Recognises files that are not safetensors files.
#pragma once

#include <optional>
#include <string_view>

namespace streamer::safetensors {

struct ForeignFile {
  std::string_view kind;  // "a Git LFS pointer"
  std::string_view cure;  // the remedy; may be empty
};

// The kind of a file that begins with `first_bytes`; none if it is not known. A sound safetensors
// file may begin like one of them, so this only explains an error.
std::optional<ForeignFile> recognise(std::string_view first_bytes);

}  // namespace streamer::safetensors

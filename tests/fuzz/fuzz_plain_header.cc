// Any bytes: a header without gaps whose parts lie in the text, or none; never a crash.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "safetensors/plain_header.h"

namespace {

constexpr std::uint64_t kDataSize = 64;

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto header = streamer::safetensors::parse_plain_header(
      text, kDataSize, {{"F4", 4}, {"U8", 8}, {"F16", 16}, {"F32", 32}});
  if (!header) return 0;
  std::uint64_t position = 0;
  for (const auto& tensor : header->tensors) {
    require(tensor.start == position && tensor.end >= tensor.start && tensor.dtype < 4);
    require(tensor.first_dimension + tensor.rank <= header->dimensions.size());
    require(tensor.name.data() >= text.data() &&
            tensor.name.data() + tensor.name.size() <= text.data() + text.size());
    position = tensor.end;
  }
  require(position == kDataSize);
  return 0;
}

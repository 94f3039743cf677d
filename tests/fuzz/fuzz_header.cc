// The header of a file of any bytes: tensors without gaps whose parts lie in the header's memory,
// or an error of a documented kind; never a crash. Whether the verdict is right is compared with
// the format's own implementation in tests/python/fuzz.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "streamer/safetensors.h"

namespace {

constexpr std::uint64_t kDataSize = 64;

void require(bool condition) {
  if (!condition) std::abort();
}

std::uint64_t sum_of(std::string_view text) {
  std::uint64_t sum = 0;
  for (const char c : text) sum += static_cast<unsigned char>(c);
  return sum;
}

void check(const streamer::safetensors::Header& header, std::uint64_t file_size) {
  std::uint64_t position = 0;
  volatile std::uint64_t touched = 0;
  for (const auto& tensor : header.tensors) {
    require(tensor.begin == position && tensor.end >= tensor.begin);
    require(!streamer::safetensors::dtype_name(tensor.dtype).empty());
    touched = touched + sum_of(tensor.name);
    for (const std::uint64_t dimension : tensor.shape) touched = touched + dimension;
    position = tensor.end;
  }
  for (const auto& [key, value] : header.metadata) touched = touched + sum_of(key) + sum_of(value);
  require(header.data_offset + position == file_size);
}

void parse(std::string_view file, std::uint64_t size) {
  const auto header = streamer::safetensors::parse_header(file, size);
  if (header.ok()) {
    check(*header, size);
  } else {
    const streamer::Code code = header.status().code();
    require(code == streamer::Code::kFormat || code == streamer::Code::kShortRead ||
            code == streamer::Code::kInvalid);
    require(header.status().to_string().size() < 4096);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  // The bytes as a file, and as the JSON of a header before some data.
  parse(input, size);
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(size >> (8 * i));
  file += input;
  parse(file, file.size() + kDataSize);
  return 0;
}

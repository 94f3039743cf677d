// Headers of safetensors files as all common writers make them, parsed at the speed of memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace streamer::safetensors {

// A dtype that the format knows: its name and the bits of one element.
using Dtype = std::pair<std::string_view, std::uint32_t>;

// One tensor: `dtype` is an index of the dtypes that were given; its dimensions are
// PlainHeader::dimensions from `first_dimension` on; its bytes are [start, end) of the data.
struct PlainTensor {
  std::string_view name;
  std::uint32_t dtype;
  std::uint32_t rank;
  std::uint64_t first_dimension;
  std::uint64_t start;
  std::uint64_t end;
};

// Names and metadata point into the text that was parsed.
struct PlainHeader {
  std::vector<PlainTensor> tensors;  // in the order of their place
  std::vector<std::uint64_t> dimensions;
  std::vector<std::pair<std::string_view, std::string_view>> metadata;
};

// The header in `text` of a file with `data_size` bytes of data. None where anything about it is
// wrong, or just uncommon (escapes, letters beyond ASCII, numbers of more than 19 digits): the
// complete parser then says which. What is accepted here, that one accepts, with the same result.
// Format: https://huggingface.co/docs/safetensors/index#format. O(n log n) for any input.
std::optional<PlainHeader> parse_plain_header(std::string_view text, std::uint64_t data_size,
                                              const std::vector<Dtype>& dtypes);

}  // namespace streamer::safetensors

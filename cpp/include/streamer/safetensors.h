// Headers of safetensors files: the place of each tensor of a file.
//
//   auto end = safetensors::header_end(first_bytes, file_size);      // read *end bytes of the file
//   auto header = safetensors::parse_header(first_bytes, file_size);
//   for (const auto& tensor : header->tensors) {
//     ranges.push_back({header->data_offset + tensor.begin, tensor.end - tensor.begin});
//   }
//
// Format: https://huggingface.co/docs/safetensors/index#format. Every function is thread-safe.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "streamer/export.h"
#include "streamer/status.h"

namespace streamer::safetensors {

enum class Dtype : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

inline constexpr std::size_t kDtypes = static_cast<std::size_t>(Dtype::kU64) + 1;

// The name in the format, for example "BF16". Static memory, ends with NUL.
STREAMER_EXPORT std::string_view dtype_name(Dtype dtype) noexcept;

// Bits of one element.
STREAMER_EXPORT std::uint32_t dtype_bits(Dtype dtype) noexcept;

struct Tensor {
  std::string_view name;  // UTF-8
  std::span<const std::uint64_t> shape;
  std::uint64_t begin = 0;  // its bytes are [begin, end) of the data section
  std::uint64_t end = 0;
  Dtype dtype = Dtype::kBool;
};

// Copies share the memory that names, shapes and metadata point into.
struct Header {
  std::uint64_t data_offset = 0;  // of the data section in the file
  std::vector<Tensor> tensors;    // in the order of their place, without gaps; names differ
  std::vector<std::pair<std::string_view, std::string_view>> metadata;  // as the file orders it
  std::shared_ptr<const void> memory;
};

// The end of the header in a file of `file_size` bytes: 8 and the length of its JSON, at most
// 100,000,008. `first_bytes` are 8 or more, or the whole file.
//
// Errors: kShortRead if the file ends before its header; kFormat if the file is no safetensors
// file. The text then names the format of the file, if it is known.
STREAMER_EXPORT Result<std::uint64_t> header_end(std::string_view first_bytes,
                                                 std::uint64_t file_size);

// The header of a file of `file_size` bytes. `first_bytes` are at least those of the header.
//
// Every contradiction is an error: a tensor whose shape and size differ, an overlap, a gap, a name
// that occurs twice. kShortRead if bytes are missing at the end, kFormat else. Takes O(n log n)
// time for any header, and memory of a small multiple of its size. Add the path to a Status with
// with_path().
STREAMER_EXPORT Result<Header> parse_header(std::string_view first_bytes, std::uint64_t file_size);

}  // namespace streamer::safetensors

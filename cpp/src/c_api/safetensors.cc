// The functions of runai_safetensors.h.
#include "streamer/safetensors.h"

#include <string_view>
#include <utility>

#include "c_api/codes.h"
#include "c_api/report.h"
#include "streamer/runai_safetensors.h"

struct RunaiSafetensorsHeader {
  streamer::safetensors::Header header;
};

namespace {

using streamer::Result;
using streamer::SourceKind;
using streamer::Status;
using streamer::c_api::CallResult;
using streamer::c_api::guarded;
using streamer::c_api::invalid;
using streamer::safetensors::Tensor;

CallResult result_of(const Status& status) {
  return {streamer::c_api::code_of(status, SourceKind::kFile), status.to_string()};
}

std::string_view text_of(const void* bytes, size_t size) {
  return {static_cast<const char*>(bytes), size};
}

}  // namespace

extern "C" {

int runai_safetensors_header_end(const void* first_bytes, size_t size, uint64_t file_size,
                                 uint64_t* end) {
  return guarded([&]() -> CallResult {
    if (end == nullptr || (first_bytes == nullptr && size > 0)) {
      return invalid("safetensors_header_end: null argument");
    }
    const Result<uint64_t> found =
        streamer::safetensors::header_end(text_of(first_bytes, size), file_size);
    if (!found.ok()) return result_of(found.status());
    *end = *found;
    return {};
  });
}

int runai_safetensors_parse(const void* first_bytes, size_t size, uint64_t file_size,
                            RunaiSafetensorsHeader** header) {
  return guarded([&]() -> CallResult {
    if (header == nullptr || (first_bytes == nullptr && size > 0)) {
      return invalid("safetensors_parse: null argument");
    }
    auto parsed = streamer::safetensors::parse_header(text_of(first_bytes, size), file_size);
    if (!parsed.ok()) return result_of(parsed.status());
    *header = new RunaiSafetensorsHeader{std::move(*parsed)};
    return {};
  });
}

int runai_safetensors_tensor(const RunaiSafetensorsHeader* header, size_t index,
                             RunaiSafetensorsTensor* tensor) {
  return guarded([&]() -> CallResult {
    if (header == nullptr || tensor == nullptr) return invalid("safetensors_tensor: null argument");
    const auto& tensors = header->header.tensors;
    if (index >= tensors.size()) return invalid("safetensors_tensor: no such tensor");
    const Tensor& found = tensors[index];
    *tensor = {found.name.data(),
               found.name.size(),
               streamer::safetensors::dtype_name(found.dtype).data(),
               found.shape.data(),
               found.shape.size(),
               header->header.data_offset + found.begin,
               found.end - found.begin};
    return {};
  });
}

int runai_safetensors_metadata(const RunaiSafetensorsHeader* header, size_t index,
                               RunaiSafetensorsMetadata* metadata) {
  return guarded([&]() -> CallResult {
    if (header == nullptr || metadata == nullptr) {
      return invalid("safetensors_metadata: null argument");
    }
    const auto& pairs = header->header.metadata;
    if (index >= pairs.size()) return invalid("safetensors_metadata: no such entry");
    const auto& [key, value] = pairs[index];
    *metadata = {key.data(), key.size(), value.data(), value.size()};
    return {};
  });
}

void runai_safetensors_free(RunaiSafetensorsHeader* header) { delete header; }

}  // extern "C"

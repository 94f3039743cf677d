#include "safetensors/foreign_file.h"

#include "base/text.h"

namespace streamer::safetensors {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view bytes;
  ForeignFile file;
};

constexpr std::string_view kConvert =
    "Convert the checkpoint with safetensors.torch.save_file(), or download its safetensors files";
constexpr std::string_view kUnpack = "Unpack it first";

constexpr Magic kMagics[] = {
    {"version https://git-lfs"sv, {"a Git LFS pointer"sv, "Fetch the file itself: git lfs pull"sv}},
    {"PK\x03\x04"sv, {"a ZIP archive (torch.save() writes them)"sv, kConvert}},
    {"\x80\x02"sv, {"a pickle (torch.save() writes them)"sv, kConvert}},
    {"\x80\x03"sv, {"a pickle"sv, kConvert}},
    {"\x80\x04\x95"sv, {"a pickle"sv, kConvert}},
    {"\x80\x05\x95"sv, {"a pickle"sv, kConvert}},
    {"GGUF"sv, {"a GGUF file"sv, "Use a reader of GGUF, or download the safetensors files"sv}},
    {"\x89HDF\r\n\x1a\n"sv, {"an HDF5 file"sv, kConvert}},
    {"\x93NUMPY"sv, {"a file of NumPy"sv, kConvert}},
    {"\x1f\x8b\x08"sv, {"compressed with gzip"sv, kUnpack}},
    {"\x28\xb5\x2f\xfd"sv, {"compressed with zstd"sv, kUnpack}},
    {"\xfd"
     "7zXZ"sv,
     {"compressed with xz"sv, kUnpack}},
    {"BZh"sv, {"compressed with bzip2"sv, kUnpack}},
};

// Text that a server or a tool wrote in place of the file.
std::optional<ForeignFile> recognise_text(std::string_view first_bytes) {
  constexpr std::size_t kLooked = 64;
  const std::string start = lower(trim(first_bytes.substr(0, kLooked)));
  if (start.starts_with("<!doctype html") || start.starts_with("<html")) {
    return ForeignFile{"an HTML page (of a login or an error)",
                       "Download the file again, with the credentials that its server needs"};
  }
  if (start.starts_with("<?xml") || start.starts_with("<error")) {
    return ForeignFile{"an XML document (the error of a server)", "Download the file again"};
  }
  if (start.starts_with('{') || start.starts_with("[")) {
    return ForeignFile{"a JSON document", "Pass the *.safetensors files, not their index"};
  }
  return std::nullopt;
}

}  // namespace

std::optional<ForeignFile> recognise(std::string_view first_bytes) {
  // The length of a header of below 4 GiB has zeros here, and may begin with any two bytes.
  const bool may_be_length = first_bytes.substr(0, 8).ends_with("\0\0\0\0"sv);
  for (const Magic& magic : kMagics) {
    const bool is_sure = magic.bytes.size() > 2 || !may_be_length;
    if (is_sure && first_bytes.starts_with(magic.bytes)) return magic.file;
  }
  return may_be_length ? std::nullopt : recognise_text(first_bytes);
}

}  // namespace streamer::safetensors

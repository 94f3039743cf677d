#include <algorithm>
#include <array>
#include <string>

#include "base/shown_text.h"
#include "base/text.h"
#include "safetensors/foreign_file.h"
#include "streamer/safetensors.h"
#include "text/json_reader.h"
#include "text/unique_names.h"

namespace streamer::safetensors {
namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kShownText = 200;  // bytes of the file's own text in an error

struct DtypeRow {
  std::string_view name;
  std::uint32_t bits;
};

// In the order of Dtype. Source: https://github.com/huggingface/safetensors, enum Dtype.
constexpr std::array<DtypeRow, kDtypes> kDtypeRows = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

Status invalid(std::string message) { return Status::error(Code::kFormat, std::move(message)); }

Status damaged(std::string message) {
  return invalid(std::move(message))
      .with_hint(
          "Compare its size with the source's, and download or copy the file again; if the sizes "
          "are "
          "equal, its writer must write it again");
}

Status truncated(std::string message) {
  return Status::error(Code::kShortRead, "the file is truncated: " + std::move(message))
      .with_hint("Download or copy the file again");
}

Status not_safetensors(std::string message, const ForeignFile& file) {
  return invalid(std::move(message) + ": the file is " + std::string(file.kind))
      .with_hint(std::string(file.cure));
}

std::string shown(std::string_view text) { return cut_text(text, kShownText); }
std::string named(std::string_view tensor) { return "tensor '" + shown(tensor) + "'"; }

// Memory that keeps its address while more is added.
template <typename T>
class Arena {
 public:
  const T* copy(const T* from, std::size_t count) {
    constexpr std::size_t kChunk = (64 << 10) / sizeof(T);
    if (count > left_) {
      left_ = std::max(count, kChunk);
      next_ = chunks_.emplace_back(std::make_unique<T[]>(left_)).get();
    }
    T* const to = next_;
    std::copy_n(from, count, to);
    next_ += count;
    left_ -= count;
    return to;
  }

 private:
  std::vector<std::unique_ptr<T[]>> chunks_;
  T* next_ = nullptr;
  std::size_t left_ = 0;
};

struct Memory {
  std::string_view copy(std::string_view text) {
    return {characters.copy(text.data(), text.size()), text.size()};
  }
  Arena<char> characters;
  Arena<std::uint64_t> dimensions;
};

// The members of a tensor's object so far.
struct Draft {
  enum : unsigned { kDtype = 1, kShape = 2, kOffsets = 4, kAll = 7 };
  unsigned seen = 0;
  std::uint64_t elements = 1;
  UniqueNames unknown;  // members that the format does not define
};

class Parser {
 public:
  Parser(std::string_view text, Header* header, Memory* memory)
      : reader_(text), text_(text), header_(*header), memory_(*memory) {}

  Status parse(std::string_view first_bytes) {
    const bool read = document();
    // An error of the text as a whole comes before an error of a part.
    if (!read || reader_.has_non_ascii()) {
      const std::size_t position = find_invalid_utf8(text_);
      if (position != std::string_view::npos) {
        return damaged("the header is not valid UTF-8 (byte " + std::to_string(position) + ")");
      }
    }
    if (read) return {};
    if (!reader_.failed()) {
      JsonReader whole(text_);
      if (whole.skip() && whole.end()) return std::move(problem_);
      return not_json(first_bytes, whole.error());
    }
    return not_json(first_bytes, reader_.error());
  }

 private:
  Status not_json(std::string_view first_bytes, const std::string& error) const {
    if (const auto file = recognise(first_bytes)) {
      return not_safetensors("the header is not valid JSON", *file);
    }
    if (text_.empty()) {
      return invalid("the header is not valid JSON: it is empty, the file begins with zeros")
          .with_hint("Download or copy the file again");
    }
    return damaged("the header is not valid JSON: " + error);
  }

  // Notes an error of well-formed JSON, and stops the reading.
  bool fail(std::string message) {
    problem_ = damaged(std::move(message));
    return false;
  }
  bool fail_lists(std::string_view tensor) {
    return fail(named(tensor) +
                ": shape and data_offsets must be lists, data_offsets of 2 numbers");
  }
  bool fail_duplicate(std::string_view name) {
    return fail("the header is not valid JSON: duplicate name '" + shown(name) + "'");
  }

  bool document() {
    if (reader_.peek() != '{') {
      return fail("the header is not valid JSON of the format: not an object");
    }
    bool metadata = false;
    const bool read = reader_.object([&](std::string_view name) {
      if (name != "__metadata__") return tensor(memory_.copy(name));
      if (std::exchange(metadata, true)) return fail_duplicate(name);
      return this->metadata();
    });
    return read && reader_.end() && names_differ();
  }

  bool names_differ() {
    UniqueNames names;
    names.reserve(header_.tensors.size());
    for (const Tensor& tensor : header_.tensors) names.add(tensor.name);
    if (const auto name = names.duplicate()) return fail_duplicate(*name);
    UniqueNames keys;
    for (const auto& pair : header_.metadata) keys.add(pair.first);
    if (const auto key = keys.duplicate()) return fail_duplicate(*key);
    return true;
  }

  bool metadata() {
    constexpr const char* kWrong = "__metadata__ is not a map of text to text";
    if (reader_.peek() == 'n') return reader_.skip();  // null
    if (reader_.peek() != '{') return fail(kWrong);
    return reader_.object([&](std::string_view key) {
      const std::string_view kept = memory_.copy(key);
      if (reader_.peek() != '"') return fail(kWrong);
      std::string_view value;
      if (!reader_.string(&value)) return false;
      header_.metadata.emplace_back(kept, memory_.copy(value));
      return true;
    });
  }

  bool tensor(std::string_view name) {
    Tensor& tensor = header_.tensors.emplace_back();
    tensor.name = name;
    if (reader_.peek() != '{') return fail(named(name) + " is not described by an object");
    Draft draft;
    const bool read = reader_.object([&](std::string_view key) {
      if (key == "dtype") return once(Draft::kDtype, key, &draft) && dtype(&tensor);
      if (key == "shape") return once(Draft::kShape, key, &draft) && shape(&tensor, &draft);
      if (key == "data_offsets") return once(Draft::kOffsets, key, &draft) && offsets(&tensor);
      draft.unknown.add_copy(key);
      return reader_.skip();
    });
    if (!read) return false;
    if (const auto twice = draft.unknown.duplicate()) return fail_duplicate(*twice);
    return (draft.seen == Draft::kAll || fail_missing(name, draft.seen)) && check(tensor, draft);
  }

  bool once(unsigned member, std::string_view key, Draft* draft) {
    if ((draft->seen & member) != 0) return fail_duplicate(key);
    draft->seen |= member;
    return true;
  }

  bool fail_missing(std::string_view name, unsigned seen) {
    if ((seen & Draft::kDtype) == 0) return fail(named(name) + " has no dtype");
    return fail(named(name) +
                ((seen & Draft::kShape) == 0 ? " has no shape" : " has no data_offsets"));
  }

  bool dtype(Tensor* tensor) {
    std::string_view name;
    if (reader_.peek() == '"' ? !reader_.string(&name) : !reader_.raw(&name)) return false;
    if (kDtypeRows[last_dtype_].name != name) {
      last_dtype_ = 0;
      while (last_dtype_ < kDtypes && kDtypeRows[last_dtype_].name != name) ++last_dtype_;
      if (last_dtype_ == kDtypes) {
        last_dtype_ = 0;
        problem_ = invalid("Unsupported dtype '" + shown(name) + "' of " + named(tensor->name))
                       .with_hint("Install a newer version of this package");
        return false;
      }
    }
    tensor->dtype = static_cast<Dtype>(last_dtype_);
    return true;
  }

  // A whole number below 2^64. Of anything else `*wrong` is its text; false if it is not JSON.
  bool count(std::uint64_t* out, std::string_view* wrong) {
    if (reader_.small_number(out)) return true;
    std::string_view text;
    if (!reader_.raw(&text)) return false;
    const std::optional<std::uint64_t> number = parse_number(text);
    if (number) {
      *out = *number;
    } else {
      *wrong = text;
    }
    return true;
  }

  bool shape(Tensor* tensor, Draft* draft) {
    if (reader_.peek() != '[') return fail_lists(tensor->name);
    dimensions_.clear();
    const bool read = reader_.array([&] {
      std::string_view wrong;
      if (!count(&dimensions_.emplace_back(), &wrong)) return false;
      if (!wrong.empty()) {
        return fail(named(tensor->name) + ": " + shown(wrong) + " in its shape is not a count");
      }
      return !__builtin_mul_overflow(draft->elements, dimensions_.back(), &draft->elements) ||
             fail(named(tensor->name) + ": the product of its shape overflows");
    });
    if (!read) return false;
    // Consecutive tensors often have the same.
    if (!std::equal(dimensions_.begin(), dimensions_.end(), last_shape_.begin(),
                    last_shape_.end())) {
      last_shape_ = {memory_.dimensions.copy(dimensions_.data(), dimensions_.size()),
                     dimensions_.size()};
    }
    tensor->shape = last_shape_;
    return true;
  }

  bool offsets(Tensor* tensor) {
    if (reader_.peek() != '[') return fail_lists(tensor->name);
    std::uint64_t* const places[] = {&tensor->begin, &tensor->end};
    std::size_t read = 0;
    const bool sound = reader_.array([&] {
      if (read == std::size(places)) return fail_lists(tensor->name);
      std::string_view wrong;
      if (!count(places[read++], &wrong)) return false;
      return wrong.empty() ||
             fail(named(tensor->name) + ": " + shown(wrong) + " in data_offsets is not an offset");
    });
    return sound && (read == std::size(places) || fail_lists(tensor->name));
  }

  bool check(const Tensor& tensor, const Draft& draft) {
    if (tensor.end < tensor.begin) {
      return fail(named(tensor.name) + ": data_offsets [" + std::to_string(tensor.begin) + ", " +
                  std::to_string(tensor.end) + "] are reversed");
    }
    const DtypeRow& dtype = kDtypeRows[static_cast<std::size_t>(tensor.dtype)];
    std::uint64_t bits = 0;
    if (__builtin_mul_overflow(draft.elements, std::uint64_t{dtype.bits}, &bits)) {
      return fail(named(tensor.name) + ": the size of its shape overflows");
    }
    if (bits % 8 != 0) {
      return fail(named(tensor.name) + ": " + std::to_string(draft.elements) + " elements of " +
                  std::string(dtype.name) + " do not fill whole bytes");
    }
    if (bits / 8 == tensor.end - tensor.begin) return true;
    return fail(named(tensor.name) + ": Shape claims " + std::to_string(bits / 8) + " bytes (" +
                shape_text(tensor.shape) + " of " + std::string(dtype.name) +
                ") but offsets reserve " + std::to_string(tensor.end - tensor.begin));
  }

  static std::string shape_text(std::span<const std::uint64_t> shape) {
    std::string text = "[";
    for (const std::uint64_t dimension : shape) {
      if (text.size() > kShownText) return text + ", ...]";
      if (text.size() > 1) text += ", ";
      text += std::to_string(dimension);
    }
    return text + "]";
  }

  JsonReader reader_;
  std::string_view text_;
  Header& header_;
  Memory& memory_;
  Status problem_;
  std::size_t last_dtype_ = 0;
  std::vector<std::uint64_t> dimensions_;
  std::span<const std::uint64_t> last_shape_;
};

bool place_less(const Tensor& one, const Tensor& other) {
  return std::pair(one.begin, one.end) < std::pair(other.begin, other.end);
}

// Of tensors in the order of their place.
Status check_layout(const std::vector<Tensor>& tensors, std::uint64_t data_size) {
  if (!tensors.empty() && tensors.front().begin != 0) {
    return damaged("tensor '" + shown(tensors.front().name) +
                   "' does not start at the beginning of the data: its offset is " +
                   std::to_string(tensors.front().begin));
  }
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    const Tensor& last = tensors[i - 1];
    const Tensor& tensor = tensors[i];
    if (tensor.begin < last.end) {
      return damaged("tensor '" + shown(last.name) + "' overlaps with next tensor '" +
                     shown(tensor.name) + "'");
    }
    if (tensor.begin > last.end) {
      return damaged(
          "Gaps between tensors are not allowed: " + std::to_string(tensor.begin - last.end) +
          " bytes between '" + shown(last.name) + "' and '" + shown(tensor.name) + "'");
    }
  }
  const std::uint64_t end = tensors.empty() ? 0 : tensors.back().end;
  if (data_size < end) {
    return truncated("its header describes " + std::to_string(end) + " bytes of data, it has " +
                     std::to_string(data_size));
  }
  if (data_size > end) {
    return damaged("the file has " + std::to_string(data_size - end) +
                   " extra trailing bytes behind its last tensor");
  }
  return {};
}

std::uint64_t length_at(std::string_view first_bytes) {
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(first_bytes[i]);
  }
  return length;
}

}  // namespace

std::string_view dtype_name(Dtype dtype) noexcept {
  return kDtypeRows[static_cast<std::size_t>(dtype)].name;
}

std::uint32_t dtype_bits(Dtype dtype) noexcept {
  return kDtypeRows[static_cast<std::size_t>(dtype)].bits;
}

Result<std::uint64_t> header_end(std::string_view first_bytes, std::uint64_t file_size) {
  if (file_size == 0) return truncated("it is empty");
  if (file_size < kLengthBytes || first_bytes.size() < kLengthBytes) {
    return truncated(std::to_string(file_size) +
                     " bytes do not hold the length of a safetensors header");
  }
  const std::uint64_t length = length_at(first_bytes);
  const auto file = recognise(first_bytes);
  if (length > kMaxHeaderBytes) {
    std::string message = "header length " + std::to_string(length) + " exceeds limit of " +
                          std::to_string(kMaxHeaderBytes) +
                          " bytes: this is not a safetensors file";
    return file ? not_safetensors(std::move(message), *file) : damaged(std::move(message));
  }
  if (length > file_size - kLengthBytes) {
    if (file) return not_safetensors("this is not a safetensors file", *file);
    return truncated("its header has " + std::to_string(length) + " bytes, the file " +
                     std::to_string(file_size));
  }
  return kLengthBytes + length;
}

Result<Header> parse_header(std::string_view first_bytes, std::uint64_t file_size) {
  const Result<std::uint64_t> end = header_end(first_bytes, file_size);
  if (!end.ok()) return end.status();
  if (first_bytes.size() < *end) {
    return Status::error(Code::kInvalid, "parse_header() needs the whole header of " +
                                             std::to_string(*end) + " bytes");
  }
  Header header;
  header.data_offset = *end;
  auto memory = std::make_shared<Memory>();
  const std::string_view text = first_bytes.substr(kLengthBytes, *end - kLengthBytes);
  if (Status bad = Parser(text, &header, memory.get()).parse(first_bytes); !bad.ok()) return bad;
  auto& tensors = header.tensors;
  if (!std::is_sorted(tensors.begin(), tensors.end(), place_less)) {
    std::stable_sort(tensors.begin(), tensors.end(), place_less);
  }
  if (Status bad = check_layout(tensors, file_size - *end); !bad.ok()) return bad;
  header.memory = std::move(memory);
  return header;
}

}  // namespace streamer::safetensors

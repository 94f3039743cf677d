#include "safetensors/plain_header.h"

#include <algorithm>
#include <functional>

namespace streamer::safetensors {
namespace {

constexpr std::size_t kMaxDigits = 19;  // of a number that surely fits into 64 bits

class Parser {
 public:
  Parser(std::string_view text, const std::vector<Dtype>& dtypes) : text_(text), dtypes_(dtypes) {}

  bool parse(PlainHeader* header) {
    if (!take('{')) return false;
    if (!take('}')) {
      bool metadata = false;
      do {
        std::string_view name;
        if (!string(&name) || !take(':')) return false;
        if (name == "__metadata__") {
          if (std::exchange(metadata, true) || !pairs(&header->metadata)) return false;
        } else if (!tensor(name, header)) {
          return false;
        }
      } while (take(','));
      if (!take('}')) return false;
    }
    skip_space();
    return position_ == text_.size();
  }

 private:
  void skip_space() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\n' ||
                                        text_[position_] == '\r' || text_[position_] == '\t')) {
      ++position_;
    }
  }

  bool take(char mark) {
    skip_space();
    if (position_ >= text_.size() || text_[position_] != mark) return false;
    ++position_;
    return true;
  }

  // Printable ASCII without an escape.
  bool string(std::string_view* out) {
    if (!take('"')) return false;
    const std::size_t begin = position_;
    for (; position_ < text_.size(); ++position_) {
      const char letter = text_[position_];
      if (letter == '"') {
        *out = text_.substr(begin, position_++ - begin);
        return true;
      }
      if (letter < ' ' || letter > '~' || letter == '\\') return false;
    }
    return false;
  }

  bool number(std::uint64_t* out) {
    skip_space();
    const std::size_t begin = position_;
    *out = 0;
    while (position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9') {
      *out = *out * 10 + static_cast<std::uint64_t>(text_[position_++] - '0');
    }
    const std::size_t digits = position_ - begin;
    return digits > 0 && digits <= kMaxDigits && (digits == 1 || text_[begin] != '0');
  }

  bool pairs(std::vector<std::pair<std::string_view, std::string_view>>* out) {
    if (!take('{')) return false;
    if (take('}')) return true;
    do {
      auto& [key, value] = out->emplace_back();
      if (!string(&key) || !take(':') || !string(&value)) return false;
    } while (take(','));
    return take('}');
  }

  bool tensor(std::string_view name, PlainHeader* header) {
    PlainTensor& tensor = header->tensors.emplace_back();
    tensor.name = name;
    if (!take('{')) return false;
    enum : unsigned { kDtype = 1, kShape = 2, kOffsets = 4, kAll = 7 };
    unsigned seen = 0;
    do {
      std::string_view key;
      if (!string(&key) || !take(':')) return false;
      unsigned part = 0;
      if (key == "dtype") {
        part = kDtype;
        if (!dtype(&tensor)) return false;
      } else if (key == "shape") {
        part = kShape;
        if (!shape(&tensor, header)) return false;
      } else if (key == "data_offsets") {
        part = kOffsets;
        if (!take('[') || !number(&tensor.start) || !take(',') || !number(&tensor.end) ||
            !take(']')) {
          return false;
        }
      }
      if (part == 0 || (seen & part) != 0) return false;
      seen |= part;
    } while (take(','));
    return take('}') && seen == kAll && size_is_right(tensor, *header);
  }

  bool dtype(PlainTensor* tensor) {
    std::string_view name;
    if (!string(&name)) return false;
    if (last_dtype_ >= dtypes_.size() || dtypes_[last_dtype_].first != name) {
      last_dtype_ = static_cast<std::uint32_t>(
          std::find_if(dtypes_.begin(), dtypes_.end(),
                       [&](const Dtype& known) { return known.first == name; }) -
          dtypes_.begin());
    }
    tensor->dtype = last_dtype_;
    return last_dtype_ < dtypes_.size();
  }

  bool shape(PlainTensor* tensor, PlainHeader* header) {
    tensor->first_dimension = header->dimensions.size();
    if (!take('[')) return false;
    if (!take(']')) {
      do {
        if (!number(&header->dimensions.emplace_back())) return false;
      } while (take(','));
      if (!take(']')) return false;
    }
    tensor->rank = static_cast<std::uint32_t>(header->dimensions.size() - tensor->first_dimension);
    return true;
  }

  bool size_is_right(const PlainTensor& tensor, const PlainHeader& header) const {
    std::uint64_t bits = 1;
    for (std::uint32_t i = 0; i < tensor.rank; ++i) {
      if (__builtin_mul_overflow(bits, header.dimensions[tensor.first_dimension + i], &bits)) {
        return false;
      }
    }
    return !__builtin_mul_overflow(bits, std::uint64_t{dtypes_[tensor.dtype].second}, &bits) &&
           bits % 8 == 0 && tensor.start <= tensor.end && bits / 8 == tensor.end - tensor.start;
  }

  std::string_view text_;
  const std::vector<Dtype>& dtypes_;
  std::size_t position_ = 0;
  std::uint32_t last_dtype_ = 0;
};

// By hash first, and by name where hashes are made to collide.
template <typename Items, typename Name>
bool all_differ(const Items& items, Name name_of) {
  std::vector<std::pair<std::size_t, std::string_view>> names;
  names.reserve(items.size());
  for (const auto& item : items) {
    const std::string_view name = name_of(item);
    names.emplace_back(std::hash<std::string_view>{}(name), name);
  }
  std::sort(names.begin(), names.end());
  return std::adjacent_find(names.begin(), names.end()) == names.end();
}

bool place_less(const PlainTensor& one, const PlainTensor& other) {
  return std::pair(one.start, one.end) < std::pair(other.start, other.end);
}

bool without_gaps(const std::vector<PlainTensor>& tensors, std::uint64_t data_size) {
  std::uint64_t position = 0;
  for (const PlainTensor& tensor : tensors) {
    if (tensor.start != position) return false;
    position = tensor.end;
  }
  return position == data_size;
}

}  // namespace

std::optional<PlainHeader> parse_plain_header(std::string_view text, std::uint64_t data_size,
                                              const std::vector<Dtype>& dtypes) {
  PlainHeader header;
  if (!Parser(text, dtypes).parse(&header)) return std::nullopt;
  auto& tensors = header.tensors;
  if (!std::is_sorted(tensors.begin(), tensors.end(), place_less)) {
    std::stable_sort(tensors.begin(), tensors.end(), place_less);
  }
  const bool sound = without_gaps(tensors, data_size) &&
                     all_differ(tensors, [](const PlainTensor& tensor) { return tensor.name; }) &&
                     all_differ(header.metadata, [](const auto& pair) { return pair.first; });
  if (!sound) return std::nullopt;
  return header;
}

}  // namespace streamer::safetensors

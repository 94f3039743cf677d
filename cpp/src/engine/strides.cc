#include "engine/strides.h"

namespace streamer {

std::optional<std::uint64_t> extent(const Range& range) {
  if (!range.strides) return range.size;
  const Strides& strides = *range.strides;
  std::uint64_t size = strides.run;
  std::uint64_t reach = strides.run;
  if (strides.run == 0) return std::nullopt;
  for (auto level = strides.levels.rbegin(); level != strides.levels.rend(); ++level) {
    std::uint64_t last = 0;
    if (level->count == 0 || level->stride < reach) return std::nullopt;
    if (__builtin_mul_overflow(size, level->count, &size) ||
        __builtin_mul_overflow(level->stride, level->count - 1, &last) ||
        __builtin_add_overflow(reach, last, &reach)) {
      return std::nullopt;
    }
  }
  return size == range.size ? std::optional(reach) : std::nullopt;
}

std::uint64_t place_of(const Range& range, std::uint64_t position) {
  if (!range.strides) return range.offset + position;
  const Strides& strides = *range.strides;
  std::uint64_t offset = range.offset + position % strides.run;
  std::uint64_t number = position / strides.run;
  for (auto level = strides.levels.rbegin(); level != strides.levels.rend(); ++level) {
    offset += number % level->count * level->stride;
    number /= level->count;
  }
  return offset;
}

}  // namespace streamer

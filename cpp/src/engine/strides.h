// Ranges whose bytes do not follow one another in the object: see streamer::Strides.
#pragma once

#include <cstdint>
#include <optional>

#include "streamer/types.h"

namespace streamer {

// Bytes of the object from the first one of `range` to behind the last one. Nothing if the strides
// do not add up to the size, overlap, or reach behind the range of 64 bits.
std::optional<std::uint64_t> extent(const Range& range);

// The offset in the object of byte `position` of `range`.
std::uint64_t place_of(const Range& range, std::uint64_t position);

// Bytes from `position` on that follow one another in the object.
inline std::uint64_t run_left(const Range& range, std::uint64_t position) {
  return range.strides ? range.strides->run - position % range.strides->run : range.size - position;
}

}  // namespace streamer

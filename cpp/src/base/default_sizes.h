// Sizes that the table of settings names: one number of each makes its text there and its constant.
#pragma once

#include <cstdint>

#include "base/memory_units.h"

// In MiB, or in GiB if the name has that unit.
#define STREAMER_FILE_CHUNK 2
#define STREAMER_OBJECT_CHUNK 8
#define STREAMER_LEAST_OBJECT_CHUNK 5
#define STREAMER_FILE_WINDOW 128
#define STREAMER_OBJECT_WINDOW 384
#define STREAMER_MOST_AUTOMATIC_GIB 4
#define STREAMER_DEVICE_AHEAD 192
#define STREAMER_PINNED 256
#define STREAMER_ROUND_OF_RANK 16
#define STREAMER_ROUND 256
#define STREAMER_DEVICE_ROUND_OF_RANK 64
#define STREAMER_DEVICE_ROUND_GIB 1

#define STREAMER_TEXT(number) #number
#define STREAMER_MIB(number) STREAMER_TEXT(number) " MiB"
#define STREAMER_GIB(number) STREAMER_TEXT(number) " GiB"

namespace streamer {

// Bytes of one read.
inline constexpr std::uint64_t kFileChunk = STREAMER_FILE_CHUNK * kMiB;
inline constexpr std::uint64_t kObjectChunk = STREAMER_OBJECT_CHUNK * kMiB;
inline constexpr std::uint64_t kLeastObjectChunk = STREAMER_LEAST_OBJECT_CHUNK * kMiB;
// The automatic memory limit: its start, and its end.
inline constexpr std::uint64_t kFileWindow = STREAMER_FILE_WINDOW * kMiB;
inline constexpr std::uint64_t kObjectWindow = STREAMER_OBJECT_WINDOW * kMiB;
inline constexpr std::uint64_t kMostAutomatic = STREAMER_MOST_AUTOMATIC_GIB * kGiB;
// Device memory ahead of the consumer, and pinned memory for copies to it.
inline constexpr std::uint64_t kDeviceAhead = STREAMER_DEVICE_AHEAD * kMiB;
inline constexpr std::uint64_t kPinned = STREAMER_PINNED * kMiB;
// Bytes that ranks exchange in one round: for each of them, and at most.
inline constexpr std::uint64_t kRoundOfRank = STREAMER_ROUND_OF_RANK * kMiB;
inline constexpr std::uint64_t kRound = STREAMER_ROUND * kMiB;
inline constexpr std::uint64_t kDeviceRoundOfRank = STREAMER_DEVICE_ROUND_OF_RANK * kMiB;
inline constexpr std::uint64_t kDeviceRound = STREAMER_DEVICE_ROUND_GIB * kGiB;

}  // namespace streamer

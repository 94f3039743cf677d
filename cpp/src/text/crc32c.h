// CRC-32C (Castagnoli), in hardware if the processor has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace streamer {

// The checksum of `data`, or of the bytes with the checksum `crc` followed by `data`.
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t crc = 0);

// The checksum of A followed by B, from those of A and of B, which has `size_b` bytes.
std::uint32_t crc32c_combine(std::uint32_t crc_a, std::uint32_t crc_b, std::uint64_t size_b);

// The same as crc32c() without special instructions.
std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t crc = 0);

}  // namespace streamer

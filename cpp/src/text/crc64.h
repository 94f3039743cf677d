// CRC-64/NVME, the checksum that S3 keeps of every object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace streamer {

// The checksum of `data`, or of the bytes with the checksum `crc` followed by `data`.
std::uint64_t crc64nvme(std::span<const std::byte> data, std::uint64_t crc = 0);

// The checksum of A followed by B, from those of A and of B, which has `size_b` bytes.
std::uint64_t crc64nvme_combine(std::uint64_t crc_a, std::uint64_t crc_b, std::uint64_t size_b);

// The same as crc64nvme() without special instructions.
std::uint64_t crc64nvme_portable(std::span<const std::byte> data, std::uint64_t crc = 0);

}  // namespace streamer

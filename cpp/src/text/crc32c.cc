#include "text/crc32c.h"

#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "text/crc.h"

namespace streamer {
namespace {

using Castagnoli = Crc<std::uint32_t, 0x82F63B78>;

#if defined(__x86_64__) || defined(__aarch64__)
#if defined(__x86_64__)
#define STREAMER_CRC_TARGET __attribute__((target("sse4.2")))
STREAMER_CRC_TARGET inline std::uint64_t step(std::uint64_t crc, std::uint64_t word) {
  return _mm_crc32_u64(crc, word);
}
bool in_hardware() {
  static const bool supported = __builtin_cpu_supports("sse4.2");
  return supported;
}
#else
#define STREAMER_CRC_TARGET __attribute__((target("+crc")))
STREAMER_CRC_TARGET inline std::uint64_t step(std::uint64_t crc, std::uint64_t word) {
  return __crc32cd(static_cast<std::uint32_t>(crc), word);
}
bool in_hardware() {
  static const bool supported = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
  return supported;
}
#endif

std::uint64_t load(const std::byte* from) {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

constexpr std::size_t kLeastToSplit = 4096;

// Three streams at once: the instruction takes three cycles but can start in each.
STREAMER_CRC_TARGET std::uint32_t crc_hardware(std::span<const std::byte> data,
                                               std::uint32_t start) {
  std::uint64_t crc = ~start;
  const std::byte* at = data.data();
  std::size_t left = data.size();
  if (left >= kLeastToSplit) {
    const std::size_t part = left / 24 * 8;
    std::uint64_t second = ~std::uint32_t{0};
    std::uint64_t third = ~std::uint32_t{0};
    for (const std::byte* end = at + part; at != end; at += 8) {
      crc = step(crc, load(at));
      second = step(second, load(at + part));
      third = step(third, load(at + 2 * part));
    }
    const auto finished = [](std::uint64_t value) { return ~static_cast<std::uint32_t>(value); };
    std::uint32_t all = crc32c_combine(finished(crc), finished(second), part);
    all = crc32c_combine(all, finished(third), part);
    at += 2 * part;
    left -= 3 * part;
    crc = ~all;
  }
  for (; left >= 8; at += 8, left -= 8) crc = step(crc, load(at));
  return crc32c_portable({at, left}, ~static_cast<std::uint32_t>(crc));
}
#endif

}  // namespace

std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t crc) {
  return Castagnoli::checksum(data, crc);
}

std::uint32_t crc32c_combine(std::uint32_t crc_a, std::uint32_t crc_b, std::uint64_t size_b) {
  return Castagnoli::combine(crc_a, crc_b, size_b);
}

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t crc) {
#if defined(__x86_64__) || defined(__aarch64__)
  if (in_hardware()) return crc_hardware(data, crc);
#endif
  return crc32c_portable(data, crc);
}

}  // namespace streamer

#include "text/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace streamer {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78;  // bits reversed

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][i] = crc;
  }
  for (std::uint32_t i = 0; i < 256; ++i) {
    for (std::size_t k = 1; k < 8; ++k) {
      tables[k][i] = (tables[k - 1][i] >> 8) ^ tables[0][tables[k - 1][i] & 255];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

std::uint64_t load(const std::byte* from) {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

// a * b modulo the polynomial; bit 31 is x^0.
constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = 1U << 31; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kPolynomial : 0);
  }
  return product;
}

// x^(8 * 2^k)
constexpr std::array<std::uint32_t, 64> make_powers() {
  std::array<std::uint32_t, 64> powers{};
  powers[0] = 1U << 23;
  for (std::size_t k = 1; k < powers.size(); ++k) {
    powers[k] = multiply(powers[k - 1], powers[k - 1]);
  }
  return powers;
}

constexpr std::array<std::uint32_t, 64> kPowers = make_powers();

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
  crc = ~crc;
  const std::byte* at = data.data();
  std::size_t left = data.size();
  for (; left >= 8; at += 8, left -= 8) {
    const std::uint64_t word = load(at) ^ crc;
    crc = 0;
    for (std::size_t k = 0; k < 8; ++k) crc ^= kTables[7 - k][word >> (8 * k) & 255];
  }
  for (; left > 0; ++at, --left) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<std::uint32_t>(*at)) & 255];
  }
  return ~crc;
}

std::uint32_t crc32c_combine(std::uint32_t crc_a, std::uint32_t crc_b, std::uint64_t size_b) {
  for (std::size_t k = 0; size_b != 0; ++k, size_b >>= 1) {
    if ((size_b & 1) != 0) crc_a = multiply(kPowers[k], crc_a);
  }
  return crc_a ^ crc_b;
}

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t crc) {
#if defined(__x86_64__) || defined(__aarch64__)
  if (in_hardware()) return crc_hardware(data, crc);
#endif
  return crc32c_portable(data, crc);
}

}  // namespace streamer

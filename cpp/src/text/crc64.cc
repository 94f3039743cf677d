#include "text/crc64.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#include <wmmintrin.h>
#endif

namespace streamer {
namespace {

constexpr std::uint64_t kPolynomial = 0x9A6C9329AC4BC9B5;  // bits reversed

using Tables = std::array<std::array<std::uint64_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint64_t i = 0; i < 256; ++i) {
    std::uint64_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables[0][i] = crc;
  }
  for (std::uint64_t i = 0; i < 256; ++i) {
    for (std::size_t k = 1; k < 8; ++k) {
      tables[k][i] = (tables[k - 1][i] >> 8) ^ tables[0][tables[k - 1][i] & 255];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

// a * b modulo the polynomial; bit 63 is x^0.
constexpr std::uint64_t multiply(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  for (std::uint64_t bit = std::uint64_t{1} << 63; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kPolynomial : 0);
  }
  return product;
}

// x^n modulo the polynomial.
constexpr std::uint64_t power(int n) {
  std::uint64_t value = std::uint64_t{1} << 63;
  for (; n > 0; --n) value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
  return value;
}

// x^(8 * 2^k)
constexpr std::array<std::uint64_t, 64> make_powers() {
  std::array<std::uint64_t, 64> powers{};
  powers[0] = power(8);
  for (std::size_t k = 1; k < powers.size(); ++k) {
    powers[k] = multiply(powers[k - 1], powers[k - 1]);
  }
  return powers;
}

constexpr std::array<std::uint64_t, 64> kPowers = make_powers();

// One byte after another into the register, which is not inverted here.
std::uint64_t feed(std::uint64_t crc, const std::byte* at, std::size_t size) {
  for (; size >= 8; at += 8, size -= 8) {
    std::uint64_t word;
    std::memcpy(&word, at, sizeof word);
    word ^= crc;
    crc = 0;
    for (std::size_t k = 0; k < 8; ++k) crc ^= kTables[7 - k][word >> (8 * k) & 255];
  }
  for (; size > 0; ++at, --size) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<std::uint64_t>(*at)) & 255];
  }
  return crc;
}

#if defined(__x86_64__)
#define STREAMER_FOLD_TARGET __attribute__((target("pclmul,sse2")))

// 16 bytes of the data are a polynomial H x^64 + L: H is in the first half of the register, and
// what comes first has the highest power. A product without carries of two halves is x times too
// small in this order of bits, so that both factors are x times too large.
template <int kBits>
STREAMER_FOLD_TARGET inline __m128i times_power(__m128i value) {
  constexpr std::uint64_t kHigh = power(kBits + 63);
  constexpr std::uint64_t kLow = power(kBits - 1);
  const __m128i factors =
      _mm_set_epi64x(static_cast<long long>(kLow), static_cast<long long>(kHigh));
  return _mm_xor_si128(_mm_clmulepi64_si128(value, factors, 0x00),
                       _mm_clmulepi64_si128(value, factors, 0x11));
}

STREAMER_FOLD_TARGET inline __m128i load(const std::byte* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

bool in_hardware() {
  static const bool supported = __builtin_cpu_supports("pclmul");
  return supported;
}

constexpr std::size_t kLane = 16;
constexpr std::size_t kLanes = 8;
constexpr std::size_t kStep = kLane * kLanes;

// `size` is at least kStep.
STREAMER_FOLD_TARGET std::uint64_t fold(std::uint64_t crc, const std::byte* at, std::size_t size) {
  __m128i lanes[kLanes];
  for (std::size_t k = 0; k < kLanes; ++k) lanes[k] = load(at + k * kLane);
  lanes[0] = _mm_xor_si128(lanes[0], _mm_set_epi64x(0, static_cast<long long>(crc)));
  at += kStep;
  size -= kStep;
  for (; size >= kStep; at += kStep, size -= kStep) {
    for (std::size_t k = 0; k < kLanes; ++k) {
      lanes[k] = _mm_xor_si128(times_power<8 * kStep>(lanes[k]), load(at + k * kLane));
    }
  }
  __m128i all = lanes[0];
  for (std::size_t k = 1; k < kLanes; ++k) {
    all = _mm_xor_si128(times_power<8 * kLane>(all), lanes[k]);
  }
  // What is left of all that came before has the same checksum as it.
  std::array<std::byte, kLane> rest;  // NOLINT: filled by the store
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest.data()), all);
  return feed(feed(0, rest.data(), rest.size()), at, size);
}
#endif

}  // namespace

std::uint64_t crc64nvme_portable(std::span<const std::byte> data, std::uint64_t crc) {
  return ~feed(~crc, data.data(), data.size());
}

std::uint64_t crc64nvme_combine(std::uint64_t crc_a, std::uint64_t crc_b, std::uint64_t size_b) {
  for (std::size_t k = 0; size_b != 0; ++k, size_b >>= 1) {
    if ((size_b & 1) != 0) crc_a = multiply(kPowers[k], crc_a);
  }
  return crc_a ^ crc_b;
}

std::uint64_t crc64nvme(std::span<const std::byte> data, std::uint64_t crc) {
#if defined(__x86_64__)
  if (in_hardware() && data.size() >= kStep) {
    return ~fold(~crc, data.data(), data.size());
  }
#endif
  return crc64nvme_portable(data, crc);
}

}  // namespace streamer

#include "text/crc64.h"

#include <array>

#if defined(__x86_64__)
#include <emmintrin.h>
#include <wmmintrin.h>
#endif

#include "text/crc.h"

namespace streamer {
namespace {

using Nvme = Crc<std::uint64_t, 0x9A6C9329AC4BC9B5>;

#if defined(__x86_64__)
#define STREAMER_FOLD_TARGET __attribute__((target("pclmul,sse2")))

// 16 bytes of the data are a polynomial H x^64 + L: H is in the first half of the register, and the
// first bit has the highest power. A product without carries of two halves is x times too small in
// this order of bits, so that both factors are x times too large.
template <int kBits>
STREAMER_FOLD_TARGET inline __m128i times_power(__m128i value) {
  constexpr std::uint64_t kHigh = Nvme::power(kBits + 63);
  constexpr std::uint64_t kLow = Nvme::power(kBits - 1);
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
  // This rest has the same checksum as all bytes before `at`.
  std::array<std::byte, kLane> rest;  // NOLINT: filled by the store
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest.data()), all);
  return Nvme::feed(Nvme::feed(0, rest), {at, size});
}
#endif

}  // namespace

std::uint64_t crc64nvme_portable(std::span<const std::byte> data, std::uint64_t crc) {
  return Nvme::checksum(data, crc);
}

std::uint64_t crc64nvme_combine(std::uint64_t crc_a, std::uint64_t crc_b, std::uint64_t size_b) {
  return Nvme::combine(crc_a, crc_b, size_b);
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

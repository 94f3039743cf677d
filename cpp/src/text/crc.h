// The arithmetic of cyclic redundancy checks whose bits are reversed: the common part of CRC-32C
// and CRC-64/NVME.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace streamer {

// `Word` has as many bits as the checksum, and `kPolynomial` is reversed. The highest bit of a Word
// is x^0.
template <typename Word, Word kPolynomial>
class Crc {
 public:
  // x^n modulo the polynomial.
  static constexpr Word power(int n) {
    Word value = kOne;
    for (; n > 0; --n) value = times_x(value);
    return value;
  }

  // One byte of `data` after another into the register `crc`, which is not inverted here.
  static Word feed(Word crc, std::span<const std::byte> data) {
    const std::byte* at = data.data();
    std::size_t left = data.size();
    for (; left >= 8; at += 8, left -= 8) {
      std::uint64_t word;
      std::memcpy(&word, at, sizeof word);
      word ^= crc;
      crc = 0;
      for (std::size_t k = 0; k < 8; ++k) crc ^= kTables[7 - k][word >> (8 * k) & 255];
    }
    for (; left > 0; ++at, --left) {
      crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<Word>(*at)) & 255];
    }
    return crc;
  }

  // The checksum of `data`, or of the bytes with the checksum `crc` followed by `data`.
  static Word checksum(std::span<const std::byte> data, Word crc) { return ~feed(~crc, data); }

  // The checksum of A followed by B, from those of A and of B, which has `size_b` bytes.
  static Word combine(Word crc_a, Word crc_b, std::uint64_t size_b) {
    for (std::size_t k = 0; size_b != 0; ++k, size_b >>= 1) {
      if ((size_b & 1) != 0) crc_a = multiply(kPowers[k], crc_a);
    }
    return crc_a ^ crc_b;
  }

 private:
  using Tables = std::array<std::array<Word, 256>, 8>;
  using Powers = std::array<Word, 64>;
  static constexpr Word kOne = std::rotr(Word{1}, 1);

  static constexpr Word times_x(Word value) {
    return (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
  }

  // a * b modulo the polynomial.
  static constexpr Word multiply(Word a, Word b) {
    Word product = 0;
    for (Word bit = kOne; bit != 0; bit >>= 1) {
      if ((a & bit) != 0) product ^= b;
      b = times_x(b);
    }
    return product;
  }

  static constexpr Tables make_tables() {
    Tables tables{};
    for (std::size_t i = 0; i < 256; ++i) {
      Word crc = static_cast<Word>(i);
      for (int bit = 0; bit < 8; ++bit) crc = times_x(crc);
      tables[0][i] = crc;
    }
    for (std::size_t i = 0; i < 256; ++i) {
      for (std::size_t k = 1; k < 8; ++k) {
        tables[k][i] = (tables[k - 1][i] >> 8) ^ tables[0][tables[k - 1][i] & 255];
      }
    }
    return tables;
  }

  // x^(8 * 2^k)
  static constexpr Powers make_powers() {
    Powers powers{};
    powers[0] = power(8);
    for (std::size_t k = 1; k < powers.size(); ++k) {
      powers[k] = multiply(powers[k - 1], powers[k - 1]);
    }
    return powers;
  }

  static constexpr Tables kTables = make_tables();
  static constexpr Powers kPowers = make_powers();
};

}  // namespace streamer

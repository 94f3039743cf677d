// The structures by which libraries exchange tensors in memory. They are the ABI of DLPack before
// its version 1.0, which every PyTorch takes: https://dmlc.github.io/dlpack/latest/c_api.html.
#pragma once

#include <cstdint>

namespace streamer::python::dlpack {

struct Device {
  std::int32_t type;
  std::int32_t id;
};
inline constexpr std::int32_t kCpu = 1;

// Bits and lanes of one element; `code` is the kind of number.
struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

inline constexpr DataType kByte = {1, 8, 1};

struct Tensor {
  void* data;
  Device device;
  std::int32_t rank;
  DataType type;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};

// A consumer that takes it from a capsule renames the capsule and calls the deleter once.
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor* self);
};

inline constexpr const char* kCapsuleName = "dltensor";

}  // namespace streamer::python::dlpack

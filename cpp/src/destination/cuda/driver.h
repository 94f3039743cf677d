// The GPU driver, found at run time: a table of function pointers. Building needs no CUDA, and the
// same binary runs without a GPU. The same table is filled from CUDA's driver or from HIP's
// runtime, whose functions, numbers and flags agree for all that is used here.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "base/hints.h"
#include "streamer/status.h"

namespace streamer::gpu {

// Handles of the driver. The names distinguish parameters; the driver checks the values.
using DevicePointer = std::uint64_t;
using Context = void*;
using CopyStream = void*;
using Event = void*;

// Numbers that CUDA and HIP share.
enum : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kNotReady = 600,
};

// Errors that persist: of the hardware (memory, NVLink, contained), of kernels that failed, and of
// a context that is gone.
inline bool is_sticky(int code) {
  return code == 214 || code == 220 || code == 226 || code == 700 || code == 702 || code == 709 ||
         code == 710 || (code >= 714 && code <= 719) || code == 721;
}
inline constexpr unsigned kHostRegisterPortable = 1;  // pinned for every context
inline constexpr unsigned kStreamNonBlocking = 1;     // does not wait for the default stream
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr int kCaptureRelaxed = 2;  // calls of this thread end no capture of a graph

// member, name in CUDA, name in HIP, signature
#define STREAMER_GPU_FUNCTIONS(X)                                                                 \
  X(init, "cuInit", "hipInit", int(unsigned flags))                                               \
  X(error_name, "cuGetErrorName", "hipDrvGetErrorName", int(int error, const char** text))        \
  X(error_string, "cuGetErrorString", "hipDrvGetErrorString", int(int error, const char** text))  \
  X(device_count, "cuDeviceGetCount", "hipGetDeviceCount", int(int* count))                       \
  X(device_get, "cuDeviceGet", "hipDeviceGet", int(int* device, int ordinal))                     \
  X(primary_state, "cuDevicePrimaryCtxGetState", "hipDevicePrimaryCtxGetState",                   \
    int(int device, unsigned* flags, int* active))                                                \
  X(primary_retain, "cuDevicePrimaryCtxRetain", "hipDevicePrimaryCtxRetain",                      \
    int(Context * context, int device))                                                           \
  X(primary_release, "cuDevicePrimaryCtxRelease_v2", "hipDevicePrimaryCtxRelease",                \
    int(int device))                                                                              \
  X(context_current, "cuCtxGetCurrent", "hipCtxGetCurrent", int(Context * context))               \
  X(context_device, "cuCtxGetDevice", "hipCtxGetDevice", int(int* device))                        \
  X(context_push, "cuCtxPushCurrent_v2", "hipCtxPushCurrent", int(Context context))               \
  X(context_pop, "cuCtxPopCurrent_v2", "hipCtxPopCurrent", int(Context * context))                \
  X(capture_mode, "cuThreadExchangeStreamCaptureMode", "hipThreadExchangeStreamCaptureMode",      \
    int(int* mode))                                                                               \
  X(host_register, "cuMemHostRegister_v2", "hipHostRegister",                                     \
    int(void* memory, std::size_t bytes, unsigned flags))                                         \
  X(host_unregister, "cuMemHostUnregister", "hipHostUnregister", int(void* memory))               \
  X(copy_to_device, "cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync",                                 \
    int(DevicePointer to, const void* from, std::size_t bytes, CopyStream stream))                \
  X(stream_create, "cuStreamCreate", "hipStreamCreateWithFlags",                                  \
    int(CopyStream * stream, unsigned flags))                                                     \
  X(stream_destroy, "cuStreamDestroy_v2", "hipStreamDestroy", int(CopyStream stream))             \
  X(stream_synchronize, "cuStreamSynchronize", "hipStreamSynchronize", int(CopyStream stream))    \
  X(stream_is_capturing, "cuStreamIsCapturing", "hipStreamIsCapturing",                           \
    int(CopyStream stream, int* capturing))                                                       \
  X(stream_wait, "cuStreamWaitEvent", "hipStreamWaitEvent",                                       \
    int(CopyStream stream, Event event, unsigned flags))                                          \
  X(event_create, "cuEventCreate", "hipEventCreateWithFlags", int(Event * event, unsigned flags)) \
  X(event_destroy, "cuEventDestroy_v2", "hipEventDestroy", int(Event event))                      \
  X(event_record, "cuEventRecord", "hipEventRecord", int(Event event, CopyStream stream))         \
  X(event_query, "cuEventQuery", "hipEventQuery", int(Event event))

class Driver {
 public:
  // Loads and initialises the driver: the library `path`, or, if it is empty, the system's.
  // kDevice with the reason if there is none. Thread-safe; a driver stays loaded for the life of
  // the process.
  static Result<const Driver*> load(const std::string& path);

  // The error `code` of a call, with the driver's own name for it.
  Status error(int code, const std::string& what) const;
  bool is_hip() const { return hip_; }

#define STREAMER_GPU_MEMBER(member, cuda, hip, ...) \
  std::add_pointer_t<__VA_ARGS__> member = nullptr;
  STREAMER_GPU_FUNCTIONS(STREAMER_GPU_MEMBER)
#undef STREAMER_GPU_MEMBER

 private:
  Status bind(const std::string& path);
  Status initialise();

  void* library_ = nullptr;
  bool hip_ = false;
  pid_t process_ = 0;  // that initialised the driver
};

// Makes a context current in this thread for as long as it lives, and the former one again. Another
// thread may be capturing a graph meanwhile: calls under the guard do not end its capture.
class ContextGuard {
 public:
  ContextGuard(const Driver& driver, Context context) : driver_(driver) {
    code_ = driver_.context_push(context);
    if (code_ == kSuccess) driver_.capture_mode(&capture_mode_);
  }
  ~ContextGuard() {
    if (code_ != kSuccess) return;
    driver_.capture_mode(&capture_mode_);
    Context ignored = nullptr;
    driver_.context_pop(&ignored);
  }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;
  int code() const { return code_; }

 private:
  const Driver& driver_;
  int code_;
  int capture_mode_ = kCaptureRelaxed;  // then the one that this thread had before
};

}  // namespace streamer::gpu

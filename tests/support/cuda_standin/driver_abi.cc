// Compares the table of the driver's functions with NVIDIA's own header if there is one. Only
// compiled, never run: scripts/gpu_machine.sh, and CMake if it finds cuda.h.
#include <cuda.h>

#include <type_traits>

#include "destination/cuda/driver.h"

namespace {

using streamer::gpu::Driver;

template <typename T>
constexpr bool opaque =
    std::is_void_v<std::remove_pointer_t<T>> || std::is_class_v<std::remove_pointer_t<T>>;

// True if a parameter is passed in the same way: numbers of one size, or pointers to such.
template <typename A, typename B>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    if constexpr (opaque<A> || opaque<B>) {
      return true;
    } else {
      return sizeof(std::remove_pointer_t<A>) == sizeof(std::remove_pointer_t<B>);
    }
  } else {
    return !std::is_pointer_v<A> && !std::is_pointer_v<B> && sizeof(A) == sizeof(B);
  }
}

template <typename Real, typename Ours>
struct Same : std::false_type {};
template <typename... A, typename... B>
struct Same<CUresult (*)(A...), int (*)(B...)>
    : std::bool_constant<sizeof...(A) == sizeof...(B) && (alike<A, B>() && ...)> {};

#define CHECK(member, name) static_assert(Same<decltype(&name), decltype(Driver::member)>::value)
CHECK(init, cuInit);
CHECK(error_name, cuGetErrorName);
CHECK(error_string, cuGetErrorString);
CHECK(device_count, cuDeviceGetCount);
CHECK(device_get, cuDeviceGet);
CHECK(primary_state, cuDevicePrimaryCtxGetState);
CHECK(primary_retain, cuDevicePrimaryCtxRetain);
CHECK(primary_release, cuDevicePrimaryCtxRelease);
CHECK(context_current, cuCtxGetCurrent);
CHECK(context_device, cuCtxGetDevice);
CHECK(context_push, cuCtxPushCurrent);
CHECK(context_pop, cuCtxPopCurrent);
CHECK(capture_mode, cuThreadExchangeStreamCaptureMode);
CHECK(host_register, cuMemHostRegister);
CHECK(host_unregister, cuMemHostUnregister);
CHECK(copy_to_device, cuMemcpyHtoDAsync);
CHECK(stream_create, cuStreamCreate);
CHECK(stream_destroy, cuStreamDestroy);
CHECK(stream_synchronize, cuStreamSynchronize);
CHECK(stream_is_capturing, cuStreamIsCapturing);
CHECK(stream_wait, cuStreamWaitEvent);
CHECK(event_create, cuEventCreate);
CHECK(event_destroy, cuEventDestroy);
CHECK(event_record, cuEventRecord);
CHECK(event_query, cuEventQuery);

#define EQUAL(ours, name) static_assert(static_cast<int>(ours) == static_cast<int>(name))
EQUAL(streamer::gpu::kSuccess, CUDA_SUCCESS);
EQUAL(streamer::gpu::kInvalidValue, CUDA_ERROR_INVALID_VALUE);
EQUAL(streamer::gpu::kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
EQUAL(streamer::gpu::kNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
EQUAL(streamer::gpu::kNoDevice, CUDA_ERROR_NO_DEVICE);
EQUAL(streamer::gpu::kInvalidDevice, CUDA_ERROR_INVALID_DEVICE);
EQUAL(streamer::gpu::kNotReady, CUDA_ERROR_NOT_READY);
EQUAL(streamer::gpu::kHostRegisterPortable, CU_MEMHOSTREGISTER_PORTABLE);
EQUAL(streamer::gpu::kStreamNonBlocking, CU_STREAM_NON_BLOCKING);
EQUAL(streamer::gpu::kEventDisableTiming, CU_EVENT_DISABLE_TIMING);
EQUAL(streamer::gpu::kCaptureRelaxed, CU_STREAM_CAPTURE_MODE_RELAXED);

}  // namespace

// The driver's functions.
#include <unistd.h>

#include <algorithm>

#include "world.h"

using namespace standin;  // NOLINT: nothing else is here

#define FUNCTION(cuda, hip, ...) EXPORT int DRIVER(cuda, hip)(__VA_ARGS__)
#define ENTER(cuda, hip, needs_context)                          \
  World& w = world();                                            \
  std::unique_lock lock(w.mutex);                                \
  [[maybe_unused]] const char* const self = DRIVER(#cuda, #hip); \
  if (const int entered = enter(self, needs_context); entered != kSuccess) return entered

FUNCTION(cuInit, hipInit, unsigned) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  if (w.process != 0 && w.process != getpid()) return kNotInitialized;
  if (const int code = injected(DRIVER("cuInit", "hipInit")); code != kSuccess) return code;
  if (w.devices == 0) return kNoDevice;
  w.process = getpid();
  return kSuccess;
}

FUNCTION(cuGetErrorName, hipDrvGetErrorName, int error, const char** text) {
  switch (error) {
    case kInvalidValue: *text = "CUDA_ERROR_INVALID_VALUE"; break;
    case kOutOfMemory: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case kNotInitialized: *text = "CUDA_ERROR_NOT_INITIALIZED"; break;
    case kNoDevice: *text = "CUDA_ERROR_NO_DEVICE"; break;
    case kInvalidDevice: *text = "CUDA_ERROR_INVALID_DEVICE"; break;
    case kIllegalAddress: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    default: *text = nullptr; return kInvalidValue;
  }
  return kSuccess;
}

FUNCTION(cuGetErrorString, hipDrvGetErrorString, int error, const char** text) {
  *text =
      error == kIllegalAddress ? "an illegal memory access was encountered" : "a stand-in's error";
  return kSuccess;
}

FUNCTION(cuDeviceGetCount, hipGetDeviceCount, int* count) {
  ENTER(cuDeviceGetCount, hipGetDeviceCount, false);
  *count = w.devices;
  return kSuccess;
}

FUNCTION(cuDeviceGet, hipDeviceGet, int* device, int ordinal) {
  ENTER(cuDeviceGet, hipDeviceGet, false);
  if (no_device(ordinal)) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

// Contexts.

FUNCTION(cuDevicePrimaryCtxGetState, hipDevicePrimaryCtxGetState, int device, unsigned* flags,
         int* active) {
  ENTER(cuDevicePrimaryCtxGetState, hipDevicePrimaryCtxGetState, false);
  if (no_device(device)) return kInvalidDevice;
  *flags = 0;
  // HIP tells if it is the current one, CUDA if it is in use.
  *active = DRIVER(primary(device)->references > 0, primary(device) == current()) ? 1 : 0;
  return kSuccess;
}

FUNCTION(cuDevicePrimaryCtxRetain, hipDevicePrimaryCtxRetain, void** context, int device) {
  ENTER(cuDevicePrimaryCtxRetain, hipDevicePrimaryCtxRetain, false);
  if (no_device(device)) return kInvalidDevice;
  if (primary(device)->references++ == 0) ++w.counts.contexts_made;
  ++w.counts.context_references;
  *context = primary(device);
  return kSuccess;
}

FUNCTION(cuDevicePrimaryCtxRelease_v2, hipDevicePrimaryCtxRelease, int device) {
  ENTER(cuDevicePrimaryCtxRelease_v2, hipDevicePrimaryCtxRelease, false);
  if (no_device(device)) return kInvalidDevice;
  if (const int code = check_release(device); code != kSuccess) return code;
  --primary(device)->references;
  --w.counts.context_references;
  return kSuccess;
}

FUNCTION(cuCtxGetCurrent, hipCtxGetCurrent, void** context) {
  ENTER(cuCtxGetCurrent, hipCtxGetCurrent, false);
  *context = current();
  return kSuccess;
}

FUNCTION(cuCtxGetDevice, hipCtxGetDevice, int* device) {
  ENTER(cuCtxGetDevice, hipCtxGetDevice, false);
  if (current() == nullptr) return kInvalidContext;
  *device = current()->device;
  return kSuccess;
}

FUNCTION(cuCtxPushCurrent_v2, hipCtxPushCurrent, void* context) {
  ENTER(cuCtxPushCurrent_v2, hipCtxPushCurrent, false);
  auto* const pushed = static_cast<ContextImpl*>(context);
  if (const int code = check_push(pushed); code != kSuccess) return code;
  thread_state().contexts.push_back(pushed);
  ++thread_state().pushed;
  return kSuccess;
}

FUNCTION(cuCtxPopCurrent_v2, hipCtxPopCurrent, void** context) {
  ENTER(cuCtxPopCurrent_v2, hipCtxPopCurrent, false);
  if (const int code = check_pop(); code != kSuccess) return code;
  *context = current();
  thread_state().contexts.pop_back();
  --thread_state().pushed;
  return kSuccess;
}

FUNCTION(cuThreadExchangeStreamCaptureMode, hipThreadExchangeStreamCaptureMode, int* mode) {
  ENTER(cuThreadExchangeStreamCaptureMode, hipThreadExchangeStreamCaptureMode, false);
  if (*mode < 0 || *mode > kCaptureRelaxed) return kInvalidValue;
  std::swap(*mode, thread_state().capture_mode);
  return kSuccess;
}

// Memory.

FUNCTION(cuMemHostRegister_v2, hipHostRegister, void* memory, size_t bytes, unsigned flags) {
  ENTER(cuMemHostRegister_v2, hipHostRegister, true);
  const auto address = reinterpret_cast<uintptr_t>(memory);
  if (const int code = check_register(address, bytes, flags); code != kSuccess) return code;
  w.pinned[address] = {bytes, nullptr};
  w.counts.pinned_bytes += bytes;
  w.counts.pinned_peak = std::max(w.counts.pinned_peak, w.counts.pinned_bytes);
  ++w.counts.registrations;
  return kSuccess;
}

FUNCTION(cuMemHostUnregister, hipHostUnregister, void* memory) {
  ENTER(cuMemHostUnregister, hipHostUnregister, true);
  const auto address = reinterpret_cast<uintptr_t>(memory);
  if (const int code = check_unregister(address); code != kSuccess) return code;
  w.counts.pinned_bytes -= w.pinned[address].bytes;
  w.pinned.erase(address);
  return kSuccess;
}

FUNCTION(cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync, uint64_t to, const void* from, size_t bytes,
         void* handle) {
  ENTER(cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync, true);
  StreamImpl* const stream = stream_of(self, handle);
  if (stream == nullptr) return kInvalidHandle;
  const auto address = reinterpret_cast<uintptr_t>(from);
  if (const int code = check_copy(to, address, bytes, stream->context); code != kSuccess) {
    return code;
  }
  enqueue_copy(stream, to, from, bytes);
  return kSuccess;
}

// Streams.

FUNCTION(cuStreamCreate, hipStreamCreateWithFlags, void** stream, unsigned flags) {
  ENTER(cuStreamCreate, hipStreamCreateWithFlags, true);
  if (const int code = check_stream_flags(flags); code != kSuccess) return code;
  *stream = make_stream(current());
  ++w.counts.streams;
  return kSuccess;
}

FUNCTION(cuStreamDestroy_v2, hipStreamDestroy, void* handle) {
  ENTER(cuStreamDestroy_v2, hipStreamDestroy, true);
  StreamImpl* const stream = handle == nullptr ? nullptr : stream_of(self, handle);
  if (stream == nullptr) return kInvalidHandle;
  check_stream_end(*stream);
  end_stream(stream, lock);
  --w.counts.streams;
  return kSuccess;
}

FUNCTION(cuStreamSynchronize, hipStreamSynchronize, void* handle) {
  ENTER(cuStreamSynchronize, hipStreamSynchronize, true);
  StreamImpl* const stream = stream_of(self, handle);
  if (stream == nullptr) return kInvalidHandle;
  w.changed.wait(lock, [&] { return stream->work.empty(); });
  return stream->context->sticky;
}

FUNCTION(cuStreamIsCapturing, hipStreamIsCapturing, void* handle, int* capturing) {
  ENTER(cuStreamIsCapturing, hipStreamIsCapturing, true);
  StreamImpl* const stream = stream_of(self, handle);
  if (stream == nullptr) return kInvalidHandle;
  *capturing = stream->capturing ? 1 : 0;
  return kSuccess;
}

FUNCTION(cuStreamWaitEvent, hipStreamWaitEvent, void* handle, void* event_handle, unsigned) {
  ENTER(cuStreamWaitEvent, hipStreamWaitEvent, true);
  StreamImpl* const stream = stream_of(self, handle);
  const std::shared_ptr<EventImpl> event = event_of(self, event_handle);
  if (stream == nullptr || event == nullptr) return kInvalidHandle;
  const auto wait = [event, target = event->recorded] {
    World& inside = world();
    std::unique_lock waiting(inside.mutex);
    inside.changed.wait(waiting, [&] { return event->completed >= target; });
  };
  enqueue(stream, {wait, nullptr, nullptr, nullptr, 0});
  return kSuccess;
}

// Events.

FUNCTION(cuEventCreate, hipEventCreateWithFlags, void** event, unsigned) {
  ENTER(cuEventCreate, hipEventCreateWithFlags, true);
  const auto made = std::make_shared<EventImpl>();
  made->context = current();
  w.events[made.get()] = made;
  ++w.counts.events;
  *event = made.get();
  return kSuccess;
}

FUNCTION(cuEventDestroy_v2, hipEventDestroy, void* handle) {
  ENTER(cuEventDestroy_v2, hipEventDestroy, true);
  const std::shared_ptr<EventImpl> event = event_of(self, handle);
  if (event == nullptr) return kInvalidHandle;
  w.events.erase(handle);
  --w.counts.events;
  return kSuccess;
}

FUNCTION(cuEventRecord, hipEventRecord, void* handle, void* stream_handle) {
  ENTER(cuEventRecord, hipEventRecord, true);
  const std::shared_ptr<EventImpl> event = event_of(self, handle);
  StreamImpl* const stream = stream_of(self, stream_handle);
  if (stream == nullptr || event == nullptr) return kInvalidHandle;
  if (stream->capturing) violate("an event was recorded in the capture of a graph", 0);
  const uint64_t number = ++event->recorded;
  enqueue(stream, {nullptr, [=] { event->completed = std::max(event->completed, number); }, nullptr,
                   nullptr, 0});
  return kSuccess;
}

FUNCTION(cuEventQuery, hipEventQuery, void* handle) {
  ENTER(cuEventQuery, hipEventQuery, true);
  const std::shared_ptr<EventImpl> event = event_of(self, handle);
  if (event == nullptr) return kInvalidHandle;
  return event->completed == event->recorded ? kSuccess : kNotReady;
}

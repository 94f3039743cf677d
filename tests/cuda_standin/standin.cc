// See standin.h. Compiled twice: with CUDA's names, and with HIP's (STANDIN_HIP).
#include "standin.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#ifdef STANDIN_HIP
#define DRIVER(cuda, hip) hip
#else
#define DRIVER(cuda, hip) cuda
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotReady = 600,
  kIllegalAddress = 700,
  kAlreadyRegistered = 712,
  kNotRegistered = 713,
};

struct ContextImpl {
  int device = 0;
  bool primary = false;
  int references = 0;
};

struct Operation {
  std::function<void()> run;       // may take its time
  std::function<void()> complete;  // with the lock held, when the operation leaves its stream
  const void* from = nullptr;      // of a copy: what must stay
  const void* to = nullptr;
  uint64_t bytes = 0;
};

struct StreamImpl {
  ContextImpl* context = nullptr;
  std::deque<Operation> work;  // the one that runs is the first
  bool stopping = false;
  std::thread thread;
};

struct EventImpl {
  ContextImpl* context = nullptr;
  uint64_t recorded = 0;
  uint64_t completed = 0;
};

struct Failure {
  int after, times, code;
  bool sticky;
};

struct World {
  std::mutex mutex;
  std::condition_variable changed;
  pid_t process = 0;
  int devices = 2;
  uint64_t memory = uint64_t{8} << 30;
  std::vector<std::unique_ptr<ContextImpl>> contexts;         // the primary ones come first
  std::map<uintptr_t, std::pair<uint64_t, int>> allocations;  // size and device
  std::set<uintptr_t> freed;
  std::map<uintptr_t, uint64_t> pinned;
  std::set<StreamImpl*> streams;
  std::map<ContextImpl*, StreamImpl*> default_streams;
  std::map<void*, std::shared_ptr<EventImpl>> events;
  std::map<std::string, Failure> failures;
  int sticky = 0;
  bool held = false;
  uint64_t link = 0;
  std::mutex link_mutex;
  std::vector<standin_copy> copies;
  standin_counts counts{};
  std::string violation;
};

World& world() {
  static auto* const instance = new World;
  return *instance;
}

thread_local std::vector<ContextImpl*> current_contexts;
ContextImpl* current() { return current_contexts.empty() ? nullptr : current_contexts.back(); }

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// With the lock held.
int violate(const std::string& what, int code) {
  World& w = world();
  ++w.counts.violations;
  if (w.violation.empty()) w.violation = what;
  std::fprintf(stderr, "stand-in driver: %s\n", what.c_str());
  return code;
}

int injected(const std::string& function) {
  World& w = world();
  const auto it = w.failures.find(function);
  if (it == w.failures.end()) return kSuccess;
  Failure& failure = it->second;
  if (failure.after > 0) {
    --failure.after;
    return kSuccess;
  }
  const int code = failure.code;
  if (failure.sticky) w.sticky = code;
  if (--failure.times <= 0) w.failures.erase(it);
  return code;
}

// What every function of the driver does first. With the lock held.
int enter(const char* function, bool needs_context) {
  World& w = world();
  if (w.process != getpid()) return kNotInitialized;
  if (const int code = injected(function); code != kSuccess) return code;
  if (w.sticky != 0) return w.sticky;
  if (needs_context && current() == nullptr) {
    return violate(std::string(function) + " without a current context", kInvalidContext);
  }
  return kSuccess;
}

bool within(const std::map<uintptr_t, uint64_t>& ranges, uintptr_t address, uint64_t bytes) {
  auto it = ranges.upper_bound(address);
  if (it == ranges.begin()) return false;
  --it;
  return address + bytes <= it->first + it->second;
}

bool allocated(uintptr_t address, uint64_t bytes, int device) {
  auto& allocations = world().allocations;
  auto it = allocations.upper_bound(address);
  if (it == allocations.begin()) return false;
  --it;
  return address + bytes <= it->first + it->second.first && it->second.second == device;
}

bool in_use(uintptr_t address, uint64_t bytes) {
  for (const StreamImpl* stream : world().streams) {
    for (const Operation& operation : stream->work) {
      for (const void* end : {operation.from, operation.to}) {
        const auto start = reinterpret_cast<uintptr_t>(end);
        if (end != nullptr && start < address + bytes && address < start + operation.bytes)
          return true;
      }
    }
  }
  return false;
}

void run_stream(StreamImpl* stream) {
  World& w = world();
  std::unique_lock lock(w.mutex);
  for (;;) {
    w.changed.wait(lock, [&] { return stream->stopping || (!stream->work.empty() && !w.held); });
    if (stream->work.empty()) return;
    const Operation& operation = stream->work.front();  // stays: only this thread removes it
    if (operation.run) {
      lock.unlock();
      operation.run();
      lock.lock();
    }
    if (operation.complete) operation.complete();
    stream->work.pop_front();
    w.changed.notify_all();
  }
}

StreamImpl* make_stream(ContextImpl* context) {
  auto* const stream = new StreamImpl;
  stream->context = context;
  stream->thread = std::thread(run_stream, stream);
  world().streams.insert(stream);
  return stream;
}

// With the lock held; lets go of it while the stream's work ends.
void end_stream(StreamImpl* stream, std::unique_lock<std::mutex>& lock) {
  World& w = world();
  stream->stopping = true;
  w.changed.notify_all();
  lock.unlock();
  stream->thread.join();
  lock.lock();
  w.streams.erase(stream);
  delete stream;
}

// The stream that a handle stands for, or null after a violation. With the lock held.
StreamImpl* stream_of(const char* function, void* handle) {
  World& w = world();
  if (handle == nullptr) {
    StreamImpl*& stream = w.default_streams[current()];
    if (stream == nullptr) stream = make_stream(current());
    return stream;
  }
  auto* const stream = static_cast<StreamImpl*>(handle);
  if (w.streams.count(stream) == 0) {
    violate(std::string(function) + ": no such stream", 0);
    return nullptr;
  }
  if (stream->context != current()) {
    violate(std::string(function) + ": the stream is of another context", 0);
    return nullptr;
  }
  return stream;
}

std::shared_ptr<EventImpl> event_of(const char* function, void* handle) {
  const auto found = world().events.find(handle);
  if (found == world().events.end()) {
    violate(std::string(function) + ": no such event", 0);
    return nullptr;
  }
  const std::shared_ptr<EventImpl>& event = found->second;
  if (event->context != current()) {
    violate(std::string(function) + ": the event is of another context", 0);
    return nullptr;
  }
  return event;
}

void enqueue(StreamImpl* stream, Operation operation) {
  stream->work.push_back(std::move(operation));
  world().changed.notify_all();
}

void run_copy(void* to, const void* from, uint64_t bytes, int device, int64_t* begin) {
  World& w = world();
  // Taken first: nothing is copied any more once a copy has failed for good.
  const std::lock_guard link(w.link_mutex);
  {
    const std::lock_guard lock(w.mutex);
    if (w.sticky != 0) return;
    if (const int code = injected("run copy"); code != kSuccess) {
      w.sticky = code;
      return;
    }
    if (!within(w.pinned, reinterpret_cast<uintptr_t>(from), bytes) ||
        !allocated(reinterpret_cast<uintptr_t>(to), bytes, device)) {
      violate("memory of a copy was freed before the copy ran", 0);
      w.sticky = kIllegalAddress;
      return;
    }
  }
  *begin = now();
  std::memcpy(to, from, bytes);
  uint64_t speed = 0;
  {
    const std::lock_guard lock(w.mutex);
    speed = w.link;
  }
  if (speed > 0) {
    const auto duration =
        static_cast<int64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(speed));
    std::this_thread::sleep_for(std::chrono::nanoseconds(*begin + duration - now()));
  }
}

ContextImpl* primary(int device) { return world().contexts[static_cast<size_t>(device)].get(); }

bool no_device(int device) { return device < 0 || device >= world().devices; }

}  // namespace

// The driver's functions.

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

FUNCTION(cuDevicePrimaryCtxGetState, hipDevicePrimaryCtxGetState, int device, unsigned* flags,
         int* active) {
  ENTER(cuDevicePrimaryCtxGetState, hipDevicePrimaryCtxGetState, false);
  if (no_device(device)) return kInvalidDevice;
  *flags = 0;
  *active = primary(device)->references > 0;
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
  if (primary(device)->references == 0)
    return violate("a context was released too often", kInvalidContext);
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
  const bool exists = std::any_of(w.contexts.begin(), w.contexts.end(),
                                  [&](const auto& other) { return other.get() == context; });
  auto* const pushed = static_cast<ContextImpl*>(context);
  if (!exists || (pushed->primary && pushed->references == 0)) {
    return violate("a context that does not exist was made current", kInvalidContext);
  }
  current_contexts.push_back(pushed);
  return kSuccess;
}

FUNCTION(cuCtxPopCurrent_v2, hipCtxPopCurrent, void** context) {
  // Also in a context that has failed, so that guards stay balanced.
  if (current() == nullptr) return kInvalidContext;
  *context = current();
  current_contexts.pop_back();
  return kSuccess;
}

FUNCTION(cuMemHostRegister_v2, hipHostRegister, void* memory, size_t bytes, unsigned) {
  ENTER(cuMemHostRegister_v2, hipHostRegister, true);
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const auto next = w.pinned.lower_bound(address);
  if (within(w.pinned, address, 1) || (next != w.pinned.end() && next->first < address + bytes)) {
    return violate("memory was registered twice", kAlreadyRegistered);
  }
  w.pinned[address] = bytes;
  w.counts.pinned_bytes += bytes;
  w.counts.pinned_peak = std::max(w.counts.pinned_peak, w.counts.pinned_bytes);
  ++w.counts.registrations;
  return kSuccess;
}

FUNCTION(cuMemHostUnregister, hipHostUnregister, void* memory) {
  ENTER(cuMemHostUnregister, hipHostUnregister, true);
  const auto it = w.pinned.find(reinterpret_cast<uintptr_t>(memory));
  if (it == w.pinned.end())
    return violate("memory that is not registered was unregistered", kNotRegistered);
  if (w.sticky == 0 && in_use(it->first, it->second)) {
    violate("memory was unregistered under a copy", 0);
  }
  w.counts.pinned_bytes -= it->second;
  w.pinned.erase(it);
  return kSuccess;
}

FUNCTION(cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync, uint64_t to, const void* from, size_t bytes,
         void* handle) {
  ENTER(cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync, true);
  StreamImpl* const stream = stream_of(self, handle);
  if (stream == nullptr) return kInvalidHandle;
  if (!within(w.pinned, reinterpret_cast<uintptr_t>(from), bytes)) {
    return violate("a copy from memory that is not pinned", kInvalidValue);
  }
  const int device = stream->context->device;
  if (!allocated(to, bytes, device)) {
    const bool after_free = w.freed.count(to) > 0;
    return violate(
        after_free ? "a copy to memory that was freed" : "a copy outside of an allocation",
        kInvalidValue);
  }
  void* const target = reinterpret_cast<void*>(to);
  const auto begin = std::make_shared<int64_t>(0);  // stays 0 where the copy failed
  const auto run = [=] { run_copy(target, from, bytes, device, begin.get()); };
  const auto complete = [=] {
    if (*begin == 0) return;
    World& inside = world();
    ++inside.counts.copies;
    inside.counts.copied_bytes += bytes;
    inside.copies.push_back({*begin, now(), bytes});
  };
  enqueue(stream, {run, complete, from, target, bytes});
  return kSuccess;
}

FUNCTION(cuStreamCreate, hipStreamCreateWithFlags, void** stream, unsigned) {
  ENTER(cuStreamCreate, hipStreamCreateWithFlags, true);
  *stream = make_stream(current());
  ++w.counts.streams;
  return kSuccess;
}

FUNCTION(cuStreamDestroy_v2, hipStreamDestroy, void* handle) {
  ENTER(cuStreamDestroy_v2, hipStreamDestroy, true);
  StreamImpl* const stream = handle == nullptr ? nullptr : stream_of(self, handle);
  if (stream == nullptr) return kInvalidHandle;
  // Waiting for another stream's work is no harm; copying is.
  if (std::any_of(stream->work.begin(), stream->work.end(),
                  [](const Operation& operation) { return operation.bytes > 0; })) {
    violate("a stream was destroyed with copies on it", 0);
  }
  end_stream(stream, lock);
  --w.counts.streams;
  return kSuccess;
}

FUNCTION(cuStreamSynchronize, hipStreamSynchronize, void* handle) {
  ENTER(cuStreamSynchronize, hipStreamSynchronize, true);
  StreamImpl* const stream = stream_of(self, handle);
  if (stream == nullptr) return kInvalidHandle;
  w.changed.wait(lock, [&] { return stream->work.empty(); });
  return w.sticky;
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

// What tests call beside them.

EXPORT void standin_reset(int devices, uint64_t bytes) {
  World& w = world();
  std::unique_lock lock(w.mutex);
  w.held = false;
  while (!w.streams.empty()) end_stream(*w.streams.begin(), lock);
  w.default_streams.clear();
  w.events.clear();
  for (const auto& [address, allocation] : w.allocations)
    std::free(reinterpret_cast<void*>(address));
  w.allocations.clear();
  w.freed.clear();
  w.pinned.clear();
  w.failures.clear();
  w.copies.clear();
  w.violation.clear();
  w.counts = {};
  w.sticky = 0;
  w.link = 0;
  w.devices = devices;
  w.memory = bytes;
  w.process = devices > 0 ? getpid() : 0;
  current_contexts.clear();
  w.contexts.clear();
  for (int device = 0; device < devices; ++device) {
    w.contexts.push_back(std::make_unique<ContextImpl>());
    w.contexts.back()->device = device;
    w.contexts.back()->primary = true;
  }
}

EXPORT void standin_use(int device) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  if (primary(device)->references++ == 0) ++w.counts.contexts_made;
  ++w.counts.context_references;
  current_contexts.push_back(primary(device));
}

EXPORT void standin_leave(int device) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  --primary(device)->references;
  --w.counts.context_references;
  current_contexts.pop_back();
}

EXPORT void* standin_new_context(int device) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  w.contexts.push_back(std::make_unique<ContextImpl>());
  w.contexts.back()->device = device;
  ++w.counts.contexts_made;
  current_contexts.push_back(w.contexts.back().get());
  return w.contexts.back().get();
}

EXPORT void* standin_alloc(int device, uint64_t bytes) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  uint64_t used = 0;
  for (const auto& [address, allocation] : w.allocations) {
    if (allocation.second == device) used += allocation.first;
  }
  if (used + bytes > w.memory) return nullptr;
  void* const memory = std::aligned_alloc(512, (std::max<uint64_t>(bytes, 1) + 511) / 512 * 512);
  if (memory == nullptr) return nullptr;
  std::memset(memory, 0xA5, bytes);
  w.allocations[reinterpret_cast<uintptr_t>(memory)] = {bytes, device};
  w.freed.erase(reinterpret_cast<uintptr_t>(memory));
  w.counts.device_bytes += bytes;
  w.counts.device_peak = std::max(w.counts.device_peak, w.counts.device_bytes);
  return memory;
}

EXPORT void standin_free(void* memory) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  const auto it = w.allocations.find(reinterpret_cast<uintptr_t>(memory));
  if (it == w.allocations.end()) {
    violate(w.freed.count(reinterpret_cast<uintptr_t>(memory)) > 0
                ? "memory was freed twice"
                : "memory that is none was freed",
            0);
    return;
  }
  // In a context that has failed nothing runs any more.
  if (w.sticky == 0 && in_use(it->first, it->second.first)) {
    violate("memory was freed under a copy", 0);
  }
  w.counts.device_bytes -= it->second.first;
  w.freed.insert(it->first);
  w.allocations.erase(it);
  std::free(memory);
}

EXPORT int standin_owns(const void* memory, uint64_t bytes) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  for (int device = 0; device < w.devices; ++device) {
    if (allocated(reinterpret_cast<uintptr_t>(memory), bytes, device)) return 1;
  }
  return 0;
}

EXPORT void standin_fail(const char* function, int after, int times, int code, int sticky) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  w.failures[function] = {after, times, code, sticky != 0};
}

EXPORT void standin_hold(int hold) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  w.held = hold != 0;
  w.changed.notify_all();
}

EXPORT void standin_link(uint64_t bytes_per_second) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  w.link = bytes_per_second;
}

EXPORT void* standin_stream_create() {
  const std::lock_guard lock(world().mutex);
  return make_stream(current());
}

EXPORT void standin_stream_destroy(void* stream) {
  std::unique_lock lock(world().mutex);
  end_stream(static_cast<StreamImpl*>(stream), lock);
}

EXPORT void standin_fill_later(void* handle, void* memory, uint64_t bytes, int value,
                               int milliseconds) {
  const std::lock_guard lock(world().mutex);
  const auto fill = [=] {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    std::memset(memory, value, bytes);
  };
  enqueue(stream_of("fill", handle), {fill, nullptr, nullptr, memory, bytes});
}

EXPORT void standin_synchronize(void* handle) {
  World& w = world();
  std::unique_lock lock(w.mutex);
  StreamImpl* const stream = stream_of("synchronize", handle);
  w.changed.wait(lock, [&] { return stream->work.empty(); });
}

EXPORT void standin_count(struct standin_counts* counts) {
  const std::lock_guard lock(world().mutex);
  *counts = world().counts;
}

EXPORT const char* standin_violation() {
  const std::lock_guard lock(world().mutex);
  return world().violation.c_str();
}

EXPORT size_t standin_copies(struct standin_copy* copies, size_t room) {
  const std::lock_guard lock(world().mutex);
  const auto& all = world().copies;
  std::copy_n(all.begin(), std::min(room, all.size()), copies);
  return all.size();
}

// The functions of tests beside the driver's; see standin.h.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "world.h"

using namespace standin;  // NOLINT: nothing else is here

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
  w.captures = 0;
  w.link = 0;
  w.devices = devices;
  w.memory = bytes;
  w.process = devices > 0 ? getpid() : 0;
  thread_state().contexts.clear();
  thread_state().pushed = 0;
  w.contexts.clear();
  for (int device = 0; device < devices; ++device) {
    w.contexts.push_back(std::make_unique<ContextImpl>());
    w.contexts.back()->device = device;
    w.contexts.back()->primary = true;
  }
}

// Contexts.

EXPORT void standin_use(int device) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  if (primary(device)->references++ == 0) ++w.counts.contexts_made;
  ++w.counts.context_references;
  thread_state().contexts.push_back(primary(device));
}

EXPORT void standin_leave(int device) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  --primary(device)->references;
  --w.counts.context_references;
  thread_state().contexts.pop_back();
}

EXPORT void* standin_new_context(int device) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  w.contexts.push_back(std::make_unique<ContextImpl>());
  w.contexts.back()->device = device;
  ++w.counts.contexts_made;
  thread_state().contexts.push_back(w.contexts.back().get());
  return w.contexts.back().get();
}

EXPORT size_t standin_contexts_of_thread() {
  const std::lock_guard lock(world().mutex);
  return thread_state().contexts.size();
}

// Memory.

EXPORT void* standin_alloc(int device, uint64_t bytes) {
  World& w = world();
  const std::lock_guard lock(w.mutex);
  uint64_t used = 0;
  for (const auto& [address, allocation] : w.allocations) {
    if (allocation.device == device) used += allocation.bytes;
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
  const auto address = reinterpret_cast<uintptr_t>(memory);
  if (!check_free(address)) return;
  w.counts.device_bytes -= w.allocations[address].bytes;
  w.freed.insert(address);
  w.allocations.erase(address);
  std::free(memory);
}

EXPORT int standin_owns(const void* memory, uint64_t bytes) {
  const World& w = world();
  const std::lock_guard lock(world().mutex);
  for (int device = 0; device < w.devices; ++device) {
    if (allocated(reinterpret_cast<uintptr_t>(memory), bytes, device)) return 1;
  }
  return 0;
}

EXPORT void standin_restart_peak() {
  const std::lock_guard lock(world().mutex);
  world().counts.device_peak = world().counts.device_bytes;
}

// Failures, and the pace of copies.

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
  const std::lock_guard lock(world().mutex);
  world().link = bytes_per_second;
}

// Streams of the caller.

EXPORT void* standin_stream_create() {
  const std::lock_guard lock(world().mutex);
  return make_stream(current());
}

EXPORT void standin_stream_destroy(void* stream) {
  std::unique_lock lock(world().mutex);
  end_stream(static_cast<StreamImpl*>(stream), lock);
}

EXPORT void standin_capture(void* stream, int capturing) {
  const std::lock_guard lock(world().mutex);
  static_cast<StreamImpl*>(stream)->capturing = capturing != 0;
  world().captures += capturing != 0 ? 1 : -1;
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

// Observations.

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

// The uses of the driver: errors that a real one would report late, or not at all.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "world.h"

namespace standin {
namespace {

constexpr unsigned kRegisterFlags = 0xF;
constexpr unsigned kRegisterPortable = 1;
constexpr unsigned kStreamNonBlocking = 1;

// True if the bytes lie in one registration that holds for `context`.
bool pinned(uintptr_t address, uint64_t bytes, const ContextImpl* context) {
  const auto& ranges = world().pinned;
  auto it = ranges.upper_bound(address);
  if (it == ranges.begin()) return false;
  --it;
  return address + bytes <= it->first + it->second.bytes &&
         (it->second.context == nullptr || it->second.context == context);
}

bool overlaps_pinned(uintptr_t address, uint64_t bytes) {
  const auto& ranges = world().pinned;
  const auto next = ranges.lower_bound(address + bytes);
  if (next == ranges.begin()) return false;
  const auto last = std::prev(next);
  return address < last->first + last->second.bytes;
}

bool mapped(uintptr_t address, uint64_t bytes) {
  const auto page = static_cast<uintptr_t>(getpagesize());
  const uintptr_t first = address / page * page;
  const uintptr_t end = (address + bytes + page - 1) / page * page;
  std::vector<unsigned char> there((end - first) / page);
  return mincore(reinterpret_cast<void*>(first), end - first, there.data()) == 0;
}

// True if a copy that is not done needs any of the bytes.
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

}  // namespace

int violate(const std::string& what, int code) {
  World& w = world();
  ++w.counts.violations;
  if (w.violation.empty()) w.violation = what;
  std::fprintf(stderr, "stand-in driver: %s\n", what.c_str());
  return code;
}

int enter(const char* function, bool needs_context) {
  const World& w = world();
  if (w.process != getpid()) return kNotInitialized;
  if (const int code = injected(function); code != kSuccess) return code;
  if (!needs_context) return kSuccess;
  if (current() == nullptr) {
    return violate(std::string(function) + " without a current context", kInvalidContext);
  }
  if (w.captures > 0 && thread_state().capture_mode != kCaptureRelaxed) {
    return violate(std::string(function) + " disturbs the capture of a graph", kCaptureUnsupported);
  }
  return current()->sticky;
}

StreamImpl* stream_of(const char* function, void* handle) {
  if (handle == nullptr) return default_stream();
  auto* const stream = static_cast<StreamImpl*>(handle);
  if (world().streams.count(stream) == 0) {
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

int check_push(const ContextImpl* context) {
  const auto& contexts = world().contexts;
  const bool exists = std::any_of(contexts.begin(), contexts.end(),
                                  [&](const auto& other) { return other.get() == context; });
  if (!exists || (context->primary && context->references == 0)) {
    return violate("a context that does not exist was made current", kInvalidContext);
  }
  return kSuccess;
}

int check_pop() {
  if (current() == nullptr) return kInvalidContext;
  if (thread_state().pushed == 0) {
    return violate("a context was popped that the caller had made current", kInvalidContext);
  }
  return kSuccess;
}

int check_release(int device) {
  const World& w = world();
  ContextImpl* const context = primary(device);
  if (context->references == 0) {
    return violate("a context was released too often", kInvalidContext);
  }
  if (context->references > 1) return kSuccess;
  const bool streams = std::any_of(w.streams.begin(), w.streams.end(), [&](StreamImpl* stream) {
    const auto own = w.default_streams.find(context);
    return stream->context == context && (own == w.default_streams.end() || own->second != stream);
  });
  const bool events = std::any_of(w.events.begin(), w.events.end(), [&](const auto& event) {
    return event.second->context == context;
  });
  if (streams || events) return violate("a context went before its streams and events", kSuccess);
  return kSuccess;
}

int check_register(uintptr_t address, uint64_t bytes, unsigned flags) {
  if (bytes == 0 || (flags & ~kRegisterFlags) != 0) {
    return violate("memory was registered with flags or a size that are none", kInvalidValue);
  }
  if ((flags & kRegisterPortable) == 0) {
    return violate("memory was registered for one context only", kInvalidValue);
  }
  if (!mapped(address, bytes)) {
    return violate("memory that is not mapped was registered", kInvalidValue);
  }
  if (overlaps_pinned(address, bytes)) {
    return violate("memory was registered twice", kAlreadyRegistered);
  }
  return kSuccess;
}

int check_unregister(uintptr_t address) {
  const auto it = world().pinned.find(address);
  if (it == world().pinned.end()) {
    return violate("memory that is not registered was unregistered", kNotRegistered);
  }
  if (!mapped(address, it->second.bytes)) {
    violate("memory was unmapped before it was unregistered", 0);
  }
  if (current()->sticky == 0 && in_use(address, it->second.bytes)) {
    violate("memory was unregistered under a copy", 0);
  }
  return kSuccess;
}

int check_stream_flags(unsigned flags) {
  if (flags == kStreamNonBlocking) return kSuccess;
  return violate("a stream was made that waits for the caller's default stream", kInvalidValue);
}

void check_stream_end(const StreamImpl& stream) {
  // Waiting for another stream's work is no harm; copying is.
  const auto& work = stream.work;
  if (std::any_of(work.begin(), work.end(), [](const auto& one) { return one.bytes > 0; })) {
    violate("a stream was destroyed with copies on it", 0);
  }
}

int check_copy(uintptr_t to, uintptr_t from, uint64_t bytes, ContextImpl* context) {
  if (bytes == 0) return violate("a copy of nothing", kInvalidValue);
  if (!pinned(from, bytes, context)) {
    return violate("a copy from memory that is not pinned", kInvalidValue);
  }
  if (!allocated(to, bytes, context->device)) {
    const bool after_free = world().freed.count(to) > 0;
    return violate(
        after_free ? "a copy to memory that was freed" : "a copy outside of an allocation",
        kInvalidValue);
  }
  return kSuccess;
}

bool check_running_copy(uintptr_t to, uintptr_t from, uint64_t bytes, ContextImpl* context) {
  if (pinned(from, bytes, context) && allocated(to, bytes, context->device)) return true;
  violate("memory of a copy was freed before the copy ran", 0);
  return false;
}

bool check_free(uintptr_t address) {
  const World& w = world();
  const auto it = w.allocations.find(address);
  if (it == w.allocations.end()) {
    const bool twice = w.freed.count(address) > 0;
    violate(twice ? "memory was freed twice" : "memory that is none was freed", 0);
    return false;
  }
  // In a context that has failed nothing runs any more.
  if (!failed(it->second.device) && in_use(address, it->second.bytes)) {
    violate("memory was freed under a copy", 0);
  }
  return true;
}

bool allocated(uintptr_t address, uint64_t bytes, int device) {
  const auto& allocations = world().allocations;
  auto it = allocations.upper_bound(address);
  if (it == allocations.begin()) return false;
  --it;
  return address + bytes <= it->first + it->second.bytes && it->second.device == device;
}

}  // namespace standin

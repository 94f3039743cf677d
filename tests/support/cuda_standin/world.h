// The shared part of the stand-in's files: the state of all devices, and its functions. Compiled
// twice: with CUDA's names, and with HIP's (STANDIN_HIP). See standin.h.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "standin.h"

#ifdef STANDIN_HIP
#define DRIVER(cuda, hip) hip
#else
#define DRIVER(cuda, hip) cuda
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace standin {

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
  kCaptureUnsupported = 900,
};

inline constexpr int kCaptureRelaxed = 2;

struct ContextImpl {
  int device = 0;
  bool primary = false;
  int references = 0;
  int sticky = 0;  // the error that ended it
};

struct Operation {
  std::function<void()> run;       // may take its time
  std::function<void()> complete;  // with the lock held, when the operation leaves its stream
  const void* from = nullptr;      // of a copy: memory that must stay
  const void* to = nullptr;
  uint64_t bytes = 0;
};

struct StreamImpl {
  ContextImpl* context = nullptr;
  std::deque<Operation> work;  // the one that runs is the first
  bool stopping = false;
  bool capturing = false;
  std::thread thread;
};

struct EventImpl {
  ContextImpl* context = nullptr;
  uint64_t recorded = 0;
  uint64_t completed = 0;
};

struct Pinned {
  uint64_t bytes = 0;
  ContextImpl* context = nullptr;  // null: pinned for every context
};

struct Allocation {
  uint64_t bytes = 0;
  int device = 0;
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
  std::vector<std::unique_ptr<ContextImpl>> contexts;  // the primary ones come first
  std::map<uintptr_t, Allocation> allocations;
  std::set<uintptr_t> freed;
  std::map<uintptr_t, Pinned> pinned;
  std::set<StreamImpl*> streams;
  std::map<ContextImpl*, StreamImpl*> default_streams;
  std::map<void*, std::shared_ptr<EventImpl>> events;
  std::map<std::string, Failure> failures;
  int captures = 0;  // graphs that are being captured
  bool held = false;
  uint64_t link = 0;
  std::mutex link_mutex;
  std::vector<standin_copy> copies;
  standin_counts counts{};
  std::string violation;
};

World& world();

// The contexts of a thread, and its treatment of captures of others. A thread that ends has to
// leave them as it found them.
struct ThreadState {
  std::vector<ContextImpl*> contexts;
  int pushed = 0;  // of them, by the driver's own function
  int capture_mode = 0;
  ~ThreadState();
};
ThreadState& thread_state();

// Everything below is called with the lock held.

ContextImpl* current();
ContextImpl* primary(int device);
bool no_device(int device);
// True if no context of the device works any more.
bool failed(int device);
// The code that was ordered for this call, or kSuccess.
int injected(const std::string& function);

// checks.cc: the uses of the driver.
int violate(const std::string& what, int code);
// The first step of every function of the driver.
int enter(const char* function, bool needs_context);
StreamImpl* stream_of(const char* function, void* handle);  // null after a violation
std::shared_ptr<EventImpl> event_of(const char* function, void* handle);
int check_push(const ContextImpl* context);
int check_pop();
int check_release(int device);
int check_register(uintptr_t address, uint64_t bytes, unsigned flags);
int check_unregister(uintptr_t address);
int check_stream_flags(unsigned flags);
void check_stream_end(const StreamImpl& stream);
int check_copy(uintptr_t to, uintptr_t from, uint64_t bytes, ContextImpl* context);
bool check_running_copy(uintptr_t to, uintptr_t from, uint64_t bytes, ContextImpl* context);
bool check_free(uintptr_t address);
bool allocated(uintptr_t address, uint64_t bytes, int device);

// streams.cc: work that runs later.
int64_t now();
StreamImpl* make_stream(ContextImpl* context);
// Lets go of the lock while the stream's work ends.
void end_stream(StreamImpl* stream, std::unique_lock<std::mutex>& lock);
StreamImpl* default_stream();
void enqueue(StreamImpl* stream, Operation operation);
void enqueue_copy(StreamImpl* stream, uintptr_t to, const void* from, uint64_t bytes);

}  // namespace standin

// Work that runs after the call that ordered it has returned: each stream is a thread.
#include <chrono>
#include <cstring>

#include "world.h"

namespace standin {
namespace {

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

void run_copy(uintptr_t to, const void* from, uint64_t bytes, ContextImpl* context,
              int64_t* begin) {
  World& w = world();
  // Taken first: nothing is copied any more once a copy has failed for good.
  const std::lock_guard link(w.link_mutex);
  {
    const std::lock_guard lock(w.mutex);
    if (context->sticky != 0) return;
    if (const int code = injected("run copy"); code != kSuccess) {
      context->sticky = code;
      return;
    }
    if (!check_running_copy(to, reinterpret_cast<uintptr_t>(from), bytes, context)) {
      context->sticky = kIllegalAddress;
      return;
    }
  }
  *begin = now();
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
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

}  // namespace

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

StreamImpl* make_stream(ContextImpl* context) {
  auto* const stream = new StreamImpl;
  stream->context = context;
  stream->thread = std::thread(run_stream, stream);
  world().streams.insert(stream);
  return stream;
}

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

StreamImpl* default_stream() {
  StreamImpl*& stream = world().default_streams[current()];
  if (stream == nullptr) stream = make_stream(current());
  return stream;
}

void enqueue(StreamImpl* stream, Operation operation) {
  stream->work.push_back(std::move(operation));
  world().changed.notify_all();
}

void enqueue_copy(StreamImpl* stream, uintptr_t to, const void* from, uint64_t bytes) {
  ContextImpl* const context = stream->context;
  const auto begin = std::make_shared<int64_t>(0);  // stays 0 if the copy failed
  const auto run = [=] { run_copy(to, from, bytes, context, begin.get()); };
  const auto complete = [=] {
    if (*begin == 0) return;
    World& w = world();
    ++w.counts.copies;
    w.counts.copied_bytes += bytes;
    w.copies.push_back({*begin, now(), bytes});
  };
  enqueue(stream, {run, complete, from, reinterpret_cast<const void*>(to), bytes});
}

}  // namespace standin

// A mutex of the whole process that a forked child finds free.
#pragma once

#include <pthread.h>

#include <mutex>
#include <vector>

namespace streamer {

// A fork waits until the lock is free, so that the guarded data is whole in the child. A holder
// must not fork, nor lock another one. It lives as long as the process.
class ForkLock {
 public:
  ForkLock() {
    All& every = all();
    const std::lock_guard lock(every.mutex);
    if (every.locks.empty()) pthread_atfork(&lock_all, &unlock_all, &unlock_all);
    every.locks.push_back(this);
  }
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct All {
    std::mutex mutex;
    std::vector<ForkLock*> locks;
  };
  static All& all() {
    static auto* const every = new All;  // for threads that outlive static objects
    return *every;
  }
  static void lock_all() {
    all().mutex.lock();
    for (ForkLock* one : all().locks) one->lock();
  }
  static void unlock_all() {
    for (ForkLock* one : all().locks) one->unlock();
    all().mutex.unlock();
  }

  std::mutex mutex_;
};

}  // namespace streamer

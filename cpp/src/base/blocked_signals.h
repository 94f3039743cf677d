// Signals belong to the threads of the host: a thread of ours blocks all of them.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace streamer {

// Blocks all signals of this thread while it lives. Threads that it starts meanwhile inherit that.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace streamer

// Signals belong to the threads of the host: a thread of ours blocks all of them, except those that
// report a fault of the thread itself. If these were blocked, the system would end the process
// without a call of the handler.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace streamer {

// Blocks those signals of this thread while it lives. Threads that it starts meanwhile inherit
// that.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP}) {
      sigdelset(&all, fault);
    }
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace streamer

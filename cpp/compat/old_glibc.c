/* What the static C++ runtime of newer compilers expects from the C library, for libraries that
 * must also run with an older one. Linked only with STREAMER_STATIC_RUNTIME; never exported. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HIDDEN __attribute__((visibility("hidden")))

enum { kSecond = 1000000000 };

/* glibc 2.32. False is always right, only slower. */
HIDDEN char __libc_single_threaded = 0;

/* glibc 2.36. */
HIDDEN uint32_t arc4random(void) {
  uint32_t value;
  if (getentropy(&value, sizeof(value)) != 0) abort();
  return value;
}

/* glibc 2.30. */
HIDDEN pid_t gettid(void) { return (pid_t)syscall(SYS_gettid); }

/* glibc 2.30. Before, the C++ runtime itself turned steady times into times of day like this; a
 * clock that is set meanwhile makes one wait longer or shorter, and waits are loops. */
HIDDEN int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                  clockid_t clock, const struct timespec* until) {
  if (clock == CLOCK_REALTIME) return pthread_cond_timedwait(condition, mutex, until);
  struct timespec now;
  struct timespec today;
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &today);
  today.tv_sec += until->tv_sec - now.tv_sec;
  today.tv_nsec += until->tv_nsec - now.tv_nsec;
  if (today.tv_nsec < 0) {
    today.tv_nsec += kSecond;
    --today.tv_sec;
  } else if (today.tv_nsec >= kSecond) {
    today.tv_nsec -= kSecond;
    ++today.tv_sec;
  }
  if (today.tv_sec < 0) today.tv_sec = 0;
  return pthread_cond_timedwait(condition, mutex, &today);
}

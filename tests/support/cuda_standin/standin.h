// A stand-in for a GPU driver: the driver's functions on host memory, with failures to order and
// checks of its own. The functions of tests beside the driver's own are here.
//
// Copies run on threads of the stand-in, in the order of their streams, after the call returned:
// a slot that is reused too early or memory that is freed too early shows as wrong bytes, as a
// violation, and under sanitizers. Every function is thread-safe.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Back to the start: `devices` devices of `bytes` memory each, no contexts, nothing injected.
// Everything that was created must have been destroyed.
void standin_reset(int devices, uint64_t bytes);

// Makes the device's primary context active and current in this thread, as frameworks do.
void standin_use(int device);
// Lets go of the context that standin_use() holds, in this thread.
void standin_leave(int device);
// A context beside the primary one, current in this thread. Destroyed by standin_reset().
void* standin_new_context(int device);
// The number of contexts that this thread has made current, one above the other.
size_t standin_contexts_of_thread(void);
// Memory of a device, aligned to 512 bytes and filled with 0xA5; null if it has no more.
void* standin_alloc(int device, uint64_t bytes);
void standin_free(void* memory);
// True if the bytes lie in one allocation of a device.
int standin_owns(const void* memory, uint64_t bytes);
// Counts the peak of device memory anew.
void standin_restart_peak(void);

// The call of `function` (as the driver names it) after the next `after` ones returns `code`, and
// so do the `times - 1` calls that follow. With `sticky` every later call in its context does. "run
// copy" is no function, but the start of a copy on the device.
void standin_fail(const char* function, int after, int times, int code, int sticky);
// Copies of every stream wait until hold is 0 again.
void standin_hold(int hold);
// Copies of a device share a link of this speed; 0: as fast as the machine.
void standin_link(uint64_t bytes_per_second);

// A stream of the caller, in the current context.
void* standin_stream_create(void);
void standin_stream_destroy(void* stream);
// `capturing`: a graph is being captured from `stream`; then calls of threads that did not exchange
// their capture mode would end the capture.
void standin_capture(void* stream, int capturing);
// Work on `stream` (null: the default stream) that waits `milliseconds` and then fills memory.
void standin_fill_later(void* stream, void* memory, uint64_t bytes, int value, int milliseconds);
void standin_synchronize(void* stream);

struct standin_counts {
  uint64_t violations;     // wrong uses that were seen
  uint64_t contexts_made;  // primary contexts that became active, and others
  uint64_t context_references;
  uint64_t device_bytes;  // allocated now
  uint64_t device_peak;
  uint64_t pinned_bytes;  // registered now
  uint64_t pinned_peak;
  uint64_t registrations;    // in all
  uint64_t streams, events;  // that exist now
  uint64_t copies;           // that ran
  uint64_t copied_bytes;
};
void standin_count(struct standin_counts* counts);
// The first violation in words; empty if there was none. Valid until the next reset.
const char* standin_violation(void);

// The times of copies, in nanoseconds of the monotonic clock. Returns their number; writes at most
// `room`.
struct standin_copy {
  int64_t begin, end;
  uint64_t bytes;
};
size_t standin_copies(struct standin_copy* copies, size_t room);

#ifdef __cplusplus
}
#endif

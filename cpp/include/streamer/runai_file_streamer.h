/* The C ABI of streamer.h, and the additions of this library.
 *
 * Copyright the Model Streamer authors. Apache-2.0.
 */
#ifndef STREAMER_RUNAI_FILE_STREAMER_H_
#define STREAMER_RUNAI_FILE_STREAMER_H_

#include "streamer/streamer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Since node 1.1: the report of this thread's latest call of this library: path, range, cause and
 * remedy, never a secret. "" when that was no failure. Valid until this thread's next call of
 * this library. */
RUNAI_FILE_STREAMER_API const char* runai_file_streamer_last_error(void);

/* Since node 1.1: "MAJOR.MINOR.PATCH". Static memory. */
RUNAI_FILE_STREAMER_API const char* runai_file_streamer_version(void);

/* Returns 0 if the call that waits should go on, else another number. */
typedef int (*RunaiFileStreamerInterruptCallback)(void* user);

/* Since node 1.3: calls `interrupted` with `user` several times a second while a request, a
 * response or a list of this streamer waits. If it returns another number than 0, that call returns
 * INTERRUPTED within a second: nothing was requested, no response was taken, nothing was listed.
 * The streamer and its reads in flight continue, and their responses can be taken later.
 *
 * The callback runs in the thread of the call that waits, so in two threads at once if two calls
 * wait. A wait of less than a tenth of a second may end before the callback is called. It must not
 * call functions with the same streamer, nor leave by longjmp(). A C++ exception counts as another
 * number than 0. Null: nothing is called. May be called at any time, by any thread. `user`
 * must be valid until the callback was replaced, and every call that waited then has returned. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_set_interrupt(
    void* streamer, RunaiFileStreamerInterruptCallback interrupted, void* user);

#ifdef __cplusplus
}
#endif
#endif /* STREAMER_RUNAI_FILE_STREAMER_H_ */

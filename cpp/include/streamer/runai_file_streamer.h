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

#ifdef __cplusplus
}
#endif
#endif /* STREAMER_RUNAI_FILE_STREAMER_H_ */

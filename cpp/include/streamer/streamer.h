/* The C ABI: byte ranges of files and objects, streamed concurrently into the caller's memory.
 *
 *   void *streamer;
 *   runai_file_streamer_start(&streamer);
 *   runai_file_streamer_request(streamer, &id, 1, paths, counts, offsets, sizes, buffers, cpu);
 *   while (received < wanted) runai_file_streamer_response(streamer, &id, &file, &range, &done, 0);
 *   runai_file_streamer_end(streamer);
 *
 * Paths are files, or objects: s3://, gs://, az://, hf://, http:// and https://. Settings come from
 * the environment (docs/reference/environment.md) when the streamer makes its first request.
 *
 * Threads: a streamer may be used by one thread that requests and one that takes responses, at the
 * same time. Neither waits for the other. A third call meanwhile returns RUNAI_FILE_STREAMER_BUSY.
 * runai_file_streamer_end() may be called from any thread: a response or a list that waits then
 * returns RUNAI_FILE_STREAMER_FINISHED. Different streamers are independent: each has its own
 * credentials, strategy and lifetime. After fork() a child may start new streamers and end those of
 * its parent; every other call with them returns RUNAI_FILE_STREAMER_INVALID.
 *
 * Functions return one of the codes below unless they say otherwise; no C++ exception leaves them.
 * Symbols carry the version node RUNAI_FILE_STREAMER_1.0, or 1.1 if this header says so.
 *
 * Copyright the Model Streamer authors. Apache-2.0.
 */
#ifndef STREAMER_STREAMER_H_
#define STREAMER_STREAMER_H_

#include <stddef.h>
#include <stdint.h>

#include "streamer/device.h"
#include "streamer/response_code.h"
#include "streamer/submission_id.h"

#if defined(__GNUC__)
#define RUNAI_FILE_STREAMER_API __attribute__((visibility("default")))
#else
#define RUNAI_FILE_STREAMER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Makes a streamer. Starts no thread. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_start(void** streamer);

/* Cancels the reads in flight, waits until nothing writes to any destination, frees the streamer.
 * Null is accepted. */
RUNAI_FILE_STREAMER_API void runai_file_streamer_end(void* streamer);

/* Sets the S3 credentials of this streamer, instead of those of the environment. `count` pairs,
 * copied: access_key_id, secret_access_key, session_token, region, endpoint. Other keys are kept,
 * and have no effect. The same pairs again are fine; other pairs return CREDENTIALS_SET. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_set_credentials(void* streamer, const char** keys,
                                                                const char** values,
                                                                unsigned count);

/* Starts reading. The range arrays are flat, grouped by file in the order of `paths`:
 * num_ranges[0] ranges of paths[0], then num_ranges[1] of paths[1], ... Paths and arrays are
 * copied; destinations stay the caller's, must hold range_sizes[i] bytes of host memory (or of the
 * CUDA device), and must outlive the streamer or the range's response. Zero-size ranges may have a
 * null destination. All paths are of one kind of storage. A path that is used again by a later
 * request is not opened again, and must not have changed.
 *
 * Returns when the files were opened. Files that can't be opened are not an error here: their
 * ranges' responses carry the code. Any number of requests may be in flight. A request without
 * files or without ranges succeeds, has a number, and owes no response. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_request(
    void* streamer, RunaiFileStreamerSubmissionId* submission_id, uint32_t num_files,
    const char** paths, const uint32_t* num_ranges, const size_t* range_offsets,
    const size_t* range_sizes, void* const* range_dsts, RunaiFileStreamerDevice device);

/* Takes the next response; each range has exactly one. Waits for it, at most `timeout_ms`
 * milliseconds (0: without limit), also while nothing was requested.
 * SUCCESS: the range `range_index` of paths[file_index] of `submission_id` is in its destination.
 * FINISHED: the streamer is being ended; TIMED_OUT: the wait ended; BUSY: another thread waits
 * here. With these no response was taken and the numbers are unchanged. Any other code: that range
 * failed, and the numbers say which. The content of its destination is undefined.
 * *submission_done is 1 with the last response of a submission, else 0. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_response(
    void* streamer, RunaiFileStreamerSubmissionId* submission_id, uint32_t* file_index,
    uint32_t* range_index, int* submission_done, unsigned timeout_ms);

/* The meaning of a code, in a few words. Static memory; never null. */
RUNAI_FILE_STREAMER_API const char* runai_file_streamer_response_str(int code);

typedef void (*RunaiFileStreamerFileListCallback)(const char* path, size_t size, void* user);

/* Calls `found` for every file or object below the directory `prefix`, sorted by path, in this
 * thread. `path` is valid during the call. Patterns are Python's fnmatch, against the whole path of
 * a file or the key of an object (without the bucket); no `allow` patterns allow everything.
 * FINISHED: the streamer is being ended. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_list_files(
    void* streamer, const char* prefix, int recursive, const char** allow, unsigned num_allow,
    const char** ignore, unsigned num_ignore, RunaiFileStreamerFileListCallback found, void* user);

/* The alignment in bytes that direct reads (O_DIRECT) of all these files need; 1 for objects. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_probe_direct_block_size(void* streamer,
                                                                        const char** paths,
                                                                        unsigned num_paths,
                                                                        size_t* block);

/* Sets this streamer's file strategy, before its first request: auto, mapped, buffered or direct,
 * or several by preference, separated by commas. io_uring_direct, libaio_direct and sync_direct
 * mean direct; the same names with _buffered mean buffered. If the first candidate can't read a
 * file, the file is read by buffered reads if auto or a buffered candidate is among them; if none
 * is, the ranges of that file have the code STRATEGY_UNAVAILABLE or STRATEGY_FAILED. Without this
 * call the environment's RUNAI_STREAMER_FS_STRATEGY counts.
 * The same candidates again are fine. Other candidates, and candidates after the first request of a
 * streamer without any, return STRATEGY_SET. Null, an empty text, an unknown name, and a name that
 * stands there twice return INVALID. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_set_fs_strategy(void* streamer,
                                                                const char* candidates);

#ifdef __cplusplus
}
#endif
#endif /* STREAMER_STREAMER_H_ */

/* The C ABI: byte ranges of files and objects, streamed concurrently into the caller's memory.
 *
 *   void *streamer;
 *   runai_file_streamer_start(&streamer);
 *   runai_file_streamer_request(streamer, &id, 1, paths, counts, offsets, sizes, buffers, cpu);
 *   while (received < wanted) runai_file_streamer_response(streamer, &id, &file, &range, &done, 0);
 *   runai_file_streamer_end(streamer);
 *
 * Paths are files, or s3://, gs://, az://, http:// and https:// objects. Settings come from the
 * environment (docs/reference/environment.md) when the streamer makes its first request.
 *
 * Threads: a streamer may be used by one thread that requests and one that takes responses, at the
 * same time. Neither waits for the other. A third call meanwhile returns RUNAI_FILE_STREAMER_BUSY.
 * runai_file_streamer_end() may be called from any thread: a response that waits then returns
 * RUNAI_FILE_STREAMER_FINISHED. Different streamers are independent. After fork() a child may start
 * new streamers and end those of its parent; every other call with them returns
 * RUNAI_FILE_STREAMER_INVALID.
 *
 * Functions return one of the codes below unless they say otherwise; no C++ exception leaves them.
 * Symbols carry the version node RUNAI_FILE_STREAMER_1.0, or 1.1 where this header says so.
 *
 * Copyright the Model Streamer authors. Apache-2.0.
 */
#ifndef STREAMER_RUNAI_FILE_STREAMER_H_
#define STREAMER_RUNAI_FILE_STREAMER_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RUNAI_FILE_STREAMER_API __attribute__((visibility("default")))
#else
#define RUNAI_FILE_STREAMER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Results. */
enum {
  RUNAI_FILE_STREAMER_SUCCESS = 0,
  RUNAI_FILE_STREAMER_FINISHED = 1,             /* the streamer is being ended */
  RUNAI_FILE_STREAMER_FILE_ACCESS = 2,          /* missing, not permitted, changed or unreadable */
  RUNAI_FILE_STREAMER_EOF = 3,                  /* a file ended before the range did */
  RUNAI_FILE_STREAMER_S3_NOT_SUPPORTED = 4,     /* built without object storage */
  RUNAI_FILE_STREAMER_GLIBC = 5,                /* the C library is older than glibc 2.28 */
  RUNAI_FILE_STREAMER_FD_LIMIT = 6,             /* no file descriptors are left */
  RUNAI_FILE_STREAMER_INVALID = 7,              /* an argument or a setting */
  RUNAI_FILE_STREAMER_EMPTY_REQUEST = 8,        /* a request without ranges */
  RUNAI_FILE_STREAMER_BUSY = 9,                 /* another thread is in the same function */
  RUNAI_FILE_STREAMER_CA_FILE_NOT_FOUND = 10,   /* a CA bundle that a setting names */
  RUNAI_FILE_STREAMER_UNKNOWN = 11,             /* anything else */
  RUNAI_FILE_STREAMER_BACKEND_LOAD = 12,        /* libcurl or OpenSSL can't be initialised */
  RUNAI_FILE_STREAMER_GCS_NOT_SUPPORTED = 13,   /* built without object storage */
  RUNAI_FILE_STREAMER_AZURE_NOT_SUPPORTED = 14, /* built without object storage */
  RUNAI_FILE_STREAMER_SHORT_OBJECT = 15,        /* an object ended before the range did */
  RUNAI_FILE_STREAMER_TIMED_OUT = 16,           /* only of runai_file_streamer_response: its wait */
  RUNAI_FILE_STREAMER_MIXED_BACKENDS = 17,      /* paths of two kinds of storage in one request */
  RUNAI_FILE_STREAMER_CREDENTIALS_SET = 18,     /* other credentials are already set */
  RUNAI_FILE_STREAMER_RETRYABLE = 19,           /* network or server; later it may succeed */
  RUNAI_FILE_STREAMER_STRATEGY_UNKNOWN = 20,    /* no such file system strategy */
  RUNAI_FILE_STREAMER_STRATEGY_UNAVAILABLE = 21, /* a strategy that the file system has not */
  RUNAI_FILE_STREAMER_STRATEGY_FAILED = 22, /* a strategy that the system refused for this file */
  RUNAI_FILE_STREAMER_DEVICE_TYPE = 23,     /* neither CPU nor CUDA */
  RUNAI_FILE_STREAMER_NO_DEVICE = 24,       /* no driver, or it sees no device */
  RUNAI_FILE_STREAMER_DEVICE_ORDINAL = 25,  /* no device of that number */
  RUNAI_FILE_STREAMER_ALLOCATION = 26,      /* host, pinned or device memory was refused */
  RUNAI_FILE_STREAMER_TRANSFER = 27,        /* a copy to the device failed */
  RUNAI_FILE_STREAMER_DRIVER = 28           /* the device's driver failed */
};

enum { RUNAI_FILE_STREAMER_DEVICE_CPU = 0, RUNAI_FILE_STREAMER_DEVICE_CUDA = 1 };

typedef struct {
  int type; /* RUNAI_FILE_STREAMER_DEVICE_CPU or _CUDA */
  int id;   /* of a CUDA device: its ordinal; else ignored */
} RunaiFileStreamerDevice;

/* Makes a streamer. Starts no thread. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_start(void** streamer);

/* Cancels what is under way, waits until nothing writes to any destination, frees the streamer.
 * Null is accepted. */
RUNAI_FILE_STREAMER_API void runai_file_streamer_end(void* streamer);

/* Sets the S3 credentials of this streamer, instead of what the environment gives. `count` pairs,
 * copied: access_key_id, secret_access_key, session_token, region, endpoint; other names are
 * INVALID. The same values again are fine; other values return CREDENTIALS_SET. */
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
 * ranges' responses carry the code. Any number of requests may be in flight. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_request(
    void* streamer, uint64_t* submission_id, uint32_t num_files, const char** paths,
    const uint32_t* num_ranges, const size_t* range_offsets, const size_t* range_sizes,
    void* const* range_dsts, RunaiFileStreamerDevice device);

/* Takes the next response; each range has exactly one. Waits for it, at most `timeout_ms`
 * milliseconds (0: without limit), also while nothing was requested.
 * SUCCESS: the range `range_index` of paths[file_index] of `submission_id` is in its destination.
 * FINISHED: the streamer is being ended; TIMED_OUT: the wait ended; BUSY: another thread waits
 * here. With these no response was taken and the numbers are unchanged. Any other code: that range
 * failed, and the numbers say which. Of what is in its destination nothing is promised.
 * *submission_done is 1 with the last response of a submission, else 0. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_response(void* streamer, uint64_t* submission_id,
                                                         uint32_t* file_index,
                                                         uint32_t* range_index,
                                                         int* submission_done, unsigned timeout_ms);

/* What a code means, in a few words. Static memory; never null. */
RUNAI_FILE_STREAMER_API const char* runai_file_streamer_response_str(int code);

/* Calls `found` for every file or object below the directory `prefix`, sorted by path, in this
 * thread. `path` is valid during the call. Patterns are Python's fnmatch, against the whole path of
 * a file or the key of an object (without the bucket); no `allow` patterns allow everything. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_list_files(
    void* streamer, const char* prefix, int recursive, const char** allow, unsigned num_allow,
    const char** ignore, unsigned num_ignore,
    void (*found)(const char* path, size_t size, void* user), void* user);

/* The alignment in bytes that direct reads (O_DIRECT) of all these files need; 1 for objects. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_probe_direct_block_size(void* streamer,
                                                                        const char** paths,
                                                                        unsigned num_paths,
                                                                        size_t* block);

/* How streamers of this process that make their first request later read files: auto, mapped,
 * buffered or direct, or several by preference, separated by commas. A file that can't be read by
 * the first is read otherwise if auto or buffered is among them; if not, its ranges have the codes
 * STRATEGY_UNAVAILABLE or STRATEGY_FAILED. Null or "" returns to the environment's
 * RUNAI_STREAMER_FS_STRATEGY. */
RUNAI_FILE_STREAMER_API int runai_file_streamer_set_fs_strategy(const char* strategy);

/* Since node 1.1: the whole story of what this thread's latest call of this library reported: path,
 * range, cause and what to do, never a secret. "" when that was no failure. Valid until this
 * thread's next call of this library. */
RUNAI_FILE_STREAMER_API const char* runai_file_streamer_last_error(void);

/* Since node 1.1: "MAJOR.MINOR.PATCH". Static memory. */
RUNAI_FILE_STREAMER_API const char* runai_file_streamer_version(void);

#ifdef __cplusplus
}
#endif
#endif /* STREAMER_RUNAI_FILE_STREAMER_H_ */

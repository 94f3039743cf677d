/* The headers of the C ABI compile as C99, and have the types, layouts and numbers that programs
 * were compiled with: none may ever change. */
#include "streamer/device.h"
#include "streamer/response_code.h"
#include "streamer/runai_file_streamer.h"
#include "streamer/runai_safetensors.h"
#include "streamer/streamer.h"
#include "streamer/submission_id.h"

#define HOLDS_JOINED(line, condition) typedef char holds_##line[(condition) ? 1 : -1]
#define HOLDS_AT(line, condition) HOLDS_JOINED(line, condition)
#define HOLDS(condition) HOLDS_AT(__LINE__, condition)

HOLDS(sizeof(RunaiFileStreamerDevice) == 8);
HOLDS(offsetof(RunaiFileStreamerDevice, type) == 0);
HOLDS(offsetof(RunaiFileStreamerDevice, id) == 4);
HOLDS(sizeof(RunaiFileStreamerSubmissionId) == 8);
HOLDS((RunaiFileStreamerSubmissionId)-1 > 0);
HOLDS(RUNAI_FILE_STREAMER_DEVICE_CPU == 0);
HOLDS(RUNAI_FILE_STREAMER_DEVICE_CUDA == 1);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_SUCCESS == 0);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_FINISHED_ERROR == 1);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_FILE_ACCESS_ERROR == 2);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_EOF_ERROR == 3);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_S3_NOT_SUPPORTED == 4);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_GLIBC_PREREQUISITE == 5);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_INSUFFICIENT_FD_LIMIT == 6);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_INVALID_PARAMETER_ERROR == 7);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_EMPTY_REQUEST_ERROR == 8);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_BUSY_ERROR == 9);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_CA_FILE_NOT_FOUND == 10);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_UNKNOWN_ERROR == 11);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_BACKEND_LOAD_ERROR == 12);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_GCS_NOT_SUPPORTED == 13);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_AZURE_NOT_SUPPORTED == 14);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_FILE_TRUNCATED_ERROR == 15);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_TIMED_OUT == 16);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_UNSUPPORTED_BACKEND_MIX == 17);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_CREDENTIALS_ALREADY_SET == 18);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_RETRYABLE_ERROR == 19);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_FS_STRATEGY_ALREADY_SET == 20);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_FS_STRATEGY_UNAVAILABLE == 21);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_FS_STRATEGY_FAILED == 22);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_UNSUPPORTED_DEVICE_TYPE == 23);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_NO_DEVICE == 24);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_DEVICE_ORDINAL_ERROR == 25);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_ALLOCATION_ERROR == 26);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_TRANSFER_ERROR == 27);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_DRIVER_ERROR == 28);
HOLDS(RUNAI_FILE_STREAMER_RESPONSE_INTERRUPTED == 100);

/* The prototypes, by assignment: a changed argument does not compile with -Werror. */
struct abi {
  int (*start)(void** streamer);
  void (*end)(void* streamer);
  int (*set_credentials)(void* streamer, const char** keys, const char** values, unsigned count);
  int (*set_fs_strategy)(void* streamer, const char* candidates);
  int (*request)(void* streamer, uint64_t* submission_id, uint32_t num_files, const char** paths,
                 const uint32_t* num_ranges, const size_t* range_offsets, const size_t* range_sizes,
                 void* const* range_dsts, RunaiFileStreamerDevice device);
  int (*response)(void* streamer, uint64_t* submission_id, uint32_t* file_index,
                  uint32_t* range_index, int* submission_done, unsigned timeout_ms);
  const char* (*response_str)(int code);
  int (*list_files)(void* streamer, const char* prefix, int recursive, const char** allow,
                    unsigned num_allow, const char** ignore, unsigned num_ignore,
                    void (*found)(const char* path, size_t size, void* user), void* user);
  int (*probe_direct_block_size)(void* streamer, const char** paths, unsigned num_paths,
                                 size_t* block);
  const char* (*last_error)(void);
  const char* (*version)(void);
  int (*set_interrupt)(void* streamer, int (*interrupted)(void* user), void* user);
};

int start_by_c(void** streamer) {
  static const struct abi abi = {runai_file_streamer_start,
                                 runai_file_streamer_end,
                                 runai_file_streamer_set_credentials,
                                 runai_file_streamer_set_fs_strategy,
                                 runai_file_streamer_request,
                                 runai_file_streamer_response,
                                 runai_file_streamer_response_str,
                                 runai_file_streamer_list_files,
                                 runai_file_streamer_probe_direct_block_size,
                                 runai_file_streamer_last_error,
                                 runai_file_streamer_version,
                                 runai_file_streamer_set_interrupt};
  return abi.start(streamer);
}

/* The C ABI for headers of safetensors files: the place of each tensor of a file.
 *
 *   runai_safetensors_header_end(first, size, file_size, &end);    read `end` bytes of the file
 *   runai_safetensors_parse(first, end, file_size, &header);
 *   while (runai_safetensors_tensor(header, i++, &tensor) == RUNAI_FILE_STREAMER_SUCCESS) ...
 *   runai_safetensors_free(header);
 *
 * Functions return the codes of runai_file_streamer.h. runai_file_streamer_last_error() then has
 * the whole text, without the path of the file. Every function is thread-safe; a header may be read
 * by many threads at a time. Symbols carry the version node RUNAI_FILE_STREAMER_1.2.
 *
 * Copyright the Model Streamer authors. Apache-2.0.
 */
#ifndef STREAMER_RUNAI_SAFETENSORS_H_
#define STREAMER_RUNAI_SAFETENSORS_H_

#include "streamer/runai_file_streamer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct RunaiSafetensorsHeader RunaiSafetensorsHeader;

typedef struct {
  const char* name; /* UTF-8, `name_size` bytes; no NUL behind it */
  size_t name_size;
  const char* dtype;     /* as the format names it, ends with NUL */
  const uint64_t* shape; /* `rank` dimensions */
  size_t rank;
  uint64_t offset; /* of its bytes in the file */
  uint64_t size;   /* in bytes */
} RunaiSafetensorsTensor;

typedef struct {
  const char* key; /* UTF-8, as the value; no NUL behind either */
  size_t key_size;
  const char* value;
  size_t value_size;
} RunaiSafetensorsMetadata;

/* The end of the header of a file of `file_size` bytes, from its first 8 bytes or more.
 * EOF: the file ends before its header does. INVALID: it is no safetensors file. */
RUNAI_FILE_STREAMER_API int runai_safetensors_header_end(const void* first_bytes, size_t size,
                                                         uint64_t file_size, uint64_t* end);

/* Parses and checks the header of a file of `file_size` bytes. `first_bytes` are at least those of
 * the header; they are not used after the call. runai_safetensors_free() frees *header.
 * EOF: bytes are missing at the end. INVALID: the header contradicts itself. */
RUNAI_FILE_STREAMER_API int runai_safetensors_parse(const void* first_bytes, size_t size,
                                                    uint64_t file_size,
                                                    RunaiSafetensorsHeader** header);

/* The tensor `index`, in the order of offsets. The memory of `tensor` lives as long as the header.
 * INVALID: there is none of that number. */
RUNAI_FILE_STREAMER_API int runai_safetensors_tensor(const RunaiSafetensorsHeader* header,
                                                     size_t index, RunaiSafetensorsTensor* tensor);

/* The entry `index` of __metadata__, as runai_safetensors_tensor(). */
RUNAI_FILE_STREAMER_API int runai_safetensors_metadata(const RunaiSafetensorsHeader* header,
                                                       size_t index,
                                                       RunaiSafetensorsMetadata* metadata);

/* Null is accepted. */
RUNAI_FILE_STREAMER_API void runai_safetensors_free(RunaiSafetensorsHeader* header);

#ifdef __cplusplus
}
#endif
#endif /* STREAMER_RUNAI_SAFETENSORS_H_ */

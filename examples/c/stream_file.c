/* Streams one file or object into memory and prints its size and checksum.
 *
 *   stream_file /models/a.safetensors
 *   stream_file s3://bucket/a.safetensors      (credentials from the environment)
 *
 * The C ABI has no call for an object's size, so this asks the listing of its directory. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <streamer/runai_file_streamer.h>
#include <string.h>

enum { kPiece = 8 << 20 };

static int failed(const char* what, int code) {
  fprintf(stderr, "%s: %s (code %d)\n  %s\n", what, runai_file_streamer_response_str(code), code,
          runai_file_streamer_last_error());
  return 1;
}

struct wanted {
  const char* path;
  size_t size;
  int found;
};

static void look(const char* path, size_t size, void* user) {
  struct wanted* wanted = user;
  if (strcmp(path, wanted->path) == 0) {
    wanted->size = size;
    wanted->found = 1;
  }
}

/* The part of `path` before its last '/', or "." */
static char* directory_of(const char* path) {
  const char* slash = strrchr(path, '/');
  const size_t length = slash == NULL ? 0 : (size_t)(slash - path) + 1;
  char* directory = malloc(length + 2);
  if (directory == NULL) return NULL;
  if (length == 0) return strcpy(directory, ".");
  memcpy(directory, path, length);
  directory[length] = '\0';
  return directory;
}

static uint64_t checksum(const unsigned char* data, size_t size) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
  for (size_t i = 0; i < size; ++i) hash = (hash ^ data[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static int stream(void* streamer, const char* path, unsigned char* data, size_t size) {
  const uint32_t pieces = (uint32_t)((size + kPiece - 1) / kPiece);
  size_t* offsets = calloc(pieces, sizeof(*offsets));
  size_t* sizes = calloc(pieces, sizeof(*sizes));
  void** destinations = calloc(pieces, sizeof(*destinations));
  if (offsets == NULL || sizes == NULL || destinations == NULL) return failed("memory", 26);
  for (uint32_t i = 0; i < pieces; ++i) {
    offsets[i] = (size_t)i * kPiece;
    sizes[i] = size - offsets[i] < kPiece ? size - offsets[i] : kPiece;
    destinations[i] = data + offsets[i];
  }
  const RunaiFileStreamerDevice cpu = {RUNAI_FILE_STREAMER_DEVICE_CPU, 0};
  uint64_t submission = 0;
  int code = runai_file_streamer_request(streamer, &submission, 1, &path, &pieces, offsets, sizes,
                                         destinations, cpu);
  free(offsets);
  free(sizes);
  free(destinations);
  if (code != RUNAI_FILE_STREAMER_SUCCESS) return failed("request", code);
  for (int done = 0; !done;) {
    uint32_t file = 0;
    uint32_t range = 0;
    code = runai_file_streamer_response(streamer, &submission, &file, &range, &done, 0);
    /* data + range * kPiece is ready here */
    if (code != RUNAI_FILE_STREAMER_SUCCESS) return failed("response", code);
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s PATH\n", argv[0]);
    return 2;
  }
  void* streamer = NULL;
  int code = runai_file_streamer_start(&streamer);
  if (code != RUNAI_FILE_STREAMER_SUCCESS) return failed("start", code);

  struct wanted wanted = {argv[1], 0, 0};
  char* directory = directory_of(argv[1]);
  code = runai_file_streamer_list_files(streamer, directory, 0, NULL, 0, NULL, 0, look, &wanted);
  free(directory);
  int result = 1;
  if (code != RUNAI_FILE_STREAMER_SUCCESS) {
    failed("list", code);
  } else if (!wanted.found) {
    fprintf(stderr, "%s: not found\n", argv[1]);
  } else if (wanted.size == 0) {
    printf("0 bytes\n");
    result = 0;
  } else {
    unsigned char* data = malloc(wanted.size);
    result = data == NULL ? failed("memory", 26) : stream(streamer, argv[1], data, wanted.size);
    if (result == 0) {
      printf("%zu bytes, checksum %016" PRIx64 "\n", wanted.size, checksum(data, wanted.size));
    }
    runai_file_streamer_end(streamer); /* before the destination goes */
    streamer = NULL;
    free(data);
  }
  runai_file_streamer_end(streamer);
  return result;
}

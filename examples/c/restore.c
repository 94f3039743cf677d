/* Restores files as a checkpoint of a process is restored: whole files and objects into files that
 * are mapped MAP_SHARED, with many submissions in flight and with responses that are polled.
 *
 *   restore [--strategy=CANDIDATES] [--sessions=N] [--thread] DIRECTORY PATH SIZE [PATH SIZE]...
 *
 * Each PATH of SIZE bytes is restored to DIRECTORY/SESSION-NUMBER.bin. --sessions: that many
 * sessions, each with all paths, at the same time. --thread: requests come from one thread of a
 * session, responses from another. The S3 credentials in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
 * AWS_DEFAULT_REGION and AWS_ENDPOINT_URL are given to each session.
 *
 * Exits with 0 if every range was restored, 3 if ranges failed, 4 if a session ended early, 5 if
 * the library broke a promise of its interface, 2 for wrong arguments, 1 for other failures. */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <streamer/runai_file_streamer.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  kRange = 4 << 20, /* bytes */
  kRanges = 16,     /* of a submission, at most */
  kSubmissions = 8, /* in flight, at most */
  kPollMilliseconds = 25
};

struct file {
  const char* path;
  size_t size;
  unsigned char* data; /* its mapping; null if it is empty */
};

/* Ranges of one file, one after the other. */
struct submission {
  RunaiFileStreamerSubmissionId id;
  uint32_t ranges;
  uint32_t answered;
  unsigned char seen[kRanges];
  int used;
};

struct session {
  const char* strategy;
  const char* directory;
  int number;
  int own_thread;
  struct file* files;
  uint32_t num_files;

  void* streamer;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  struct submission flying[kSubmissions];
  int num_flying;
  int all_requested;
  int result;
};

/* The more serious result wins. */
static void note(struct session* session, int result) {
  if (result > session->result) session->result = result;
}

static int failed(struct session* session, const char* what, int code, int result) {
  fprintf(stderr, "session %d: %s: code %d, %s\n  %s\n", session->number, what, code,
          runai_file_streamer_response_str(code), runai_file_streamer_last_error());
  pthread_mutex_lock(&session->mutex);
  note(session, result);
  pthread_mutex_unlock(&session->mutex);
  return result;
}

static int broken(struct session* session, const char* promise) {
  fprintf(stderr, "session %d: broken promise: %s\n", session->number, promise);
  note(session, 5);
  return 5;
}

static int make_destination(struct session* session, uint32_t i) {
  struct file* const file = &session->files[i];
  char name[4096];
  snprintf(name, sizeof(name), "%s/%d-%" PRIu32 ".bin", session->directory, session->number, i);
  const int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, (off_t)file->size) != 0) {
    perror(name);
    return 1;
  }
  if (file->size > 0) {
    void* const data = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      perror(name);
      return 1;
    }
    file->data = data;
  }
  close(fd);
  return 0;
}

static int give_credentials(struct session* session) {
  static const char* const kNames[][2] = {{"access_key_id", "AWS_ACCESS_KEY_ID"},
                                          {"secret_access_key", "AWS_SECRET_ACCESS_KEY"},
                                          {"region", "AWS_DEFAULT_REGION"},
                                          {"endpoint", "AWS_ENDPOINT_URL"}};
  const char* keys[4];
  const char* values[4];
  unsigned count = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const char* const value = getenv(kNames[i][1]);
    if (value == NULL) continue;
    keys[count] = kNames[i][0];
    values[count++] = value;
  }
  if (count == 0) return 0;
  const int code = runai_file_streamer_set_credentials(session->streamer, keys, values, count);
  return code == 0 ? 0 : failed(session, "set_credentials", code, 4);
}

/* Requests the part of a file that begins at `*offset`, and moves `*offset` behind it. The caller
 * holds the mutex, so that no response of the submission is looked at before it is known. */
static int request_part(struct session* session, struct file* file, size_t* offset) {
  size_t offsets[kRanges];
  size_t sizes[kRanges];
  void* destinations[kRanges];
  uint32_t ranges = 0;
  do { /* an empty file has one empty range */
    offsets[ranges] = *offset;
    sizes[ranges] = file->size - *offset < kRange ? file->size - *offset : kRange;
    destinations[ranges] = file->data == NULL ? NULL : file->data + *offset;
    *offset += sizes[ranges++];
  } while (*offset < file->size && ranges < kRanges);
  struct submission* place = session->flying;
  while (place->used) ++place;
  memset(place, 0, sizeof(*place));
  const RunaiFileStreamerDevice cpu = {RUNAI_FILE_STREAMER_DEVICE_CPU, 0};
  const int code = runai_file_streamer_request(session->streamer, &place->id, 1, &file->path,
                                               &ranges, offsets, sizes, destinations, cpu);
  if (code != RUNAI_FILE_STREAMER_RESPONSE_SUCCESS) return code;
  for (int i = 0; i < kSubmissions; ++i) {
    if (session->flying[i].used && session->flying[i].id == place->id) {
      broken(session, "two submissions have one number");
    }
  }
  place->ranges = ranges;
  place->used = 1;
  ++session->num_flying;
  return code;
}

/* Takes a response into account. The caller holds the mutex. */
static void take(struct session* session, RunaiFileStreamerSubmissionId id, uint32_t file,
                 uint32_t range, int done) {
  struct submission* found = NULL;
  for (int i = 0; i < kSubmissions; ++i) {
    if (session->flying[i].used && session->flying[i].id == id) found = &session->flying[i];
  }
  if (found == NULL) {
    broken(session, "a response for a submission that is not in flight");
    return;
  }
  if (file != 0 || range >= found->ranges) {
    broken(session, "a response for a range that was not requested");
    return;
  }
  if (found->seen[range]) broken(session, "two responses for one range");
  found->seen[range] = 1;
  ++found->answered;
  if (done != (found->answered == found->ranges)) broken(session, "a wrong done flag");
  if (done) {
    found->used = 0;
    --session->num_flying;
    pthread_cond_signal(&session->changed);
  }
}

/* Polls once. False: nothing came, or the session ended. */
static int poll_once(struct session* session) {
  RunaiFileStreamerSubmissionId id = 0;
  uint32_t file = 0;
  uint32_t range = 0;
  int done = 0;
  const int code =
      runai_file_streamer_response(session->streamer, &id, &file, &range, &done, kPollMilliseconds);
  switch (code) {
    case RUNAI_FILE_STREAMER_RESPONSE_TIMED_OUT: return 0;
    case RUNAI_FILE_STREAMER_RESPONSE_SUCCESS: break;
    case RUNAI_FILE_STREAMER_RESPONSE_FILE_ACCESS_ERROR:
    case RUNAI_FILE_STREAMER_RESPONSE_EOF_ERROR:
    case RUNAI_FILE_STREAMER_RESPONSE_FILE_TRUNCATED_ERROR:
      failed(session, "a range", code, 3);
      break;
    default: failed(session, "the session", code, 4); return 0;
  }
  pthread_mutex_lock(&session->mutex);
  take(session, id, file, range, done);
  pthread_mutex_unlock(&session->mutex);
  return 1;
}

static int goes_on(struct session* session) {
  pthread_mutex_lock(&session->mutex);
  const int more = session->result < 4 && (!session->all_requested || session->num_flying > 0);
  pthread_mutex_unlock(&session->mutex);
  return more;
}

static void* take_responses(void* argument) {
  struct session* const session = argument;
  while (goes_on(session)) poll_once(session);
  pthread_mutex_lock(&session->mutex);
  pthread_cond_signal(&session->changed);
  pthread_mutex_unlock(&session->mutex);
  return NULL;
}

static int request_all(struct session* session) {
  for (uint32_t i = 0; i < session->num_files; ++i) {
    size_t offset = 0;
    do {
      pthread_mutex_lock(&session->mutex);
      while (session->num_flying == kSubmissions && session->result < 4) {
        if (session->own_thread) {
          pthread_cond_wait(&session->changed, &session->mutex);
          continue;
        }
        pthread_mutex_unlock(&session->mutex);
        poll_once(session);
        pthread_mutex_lock(&session->mutex);
      }
      const int ended = session->result >= 4;
      const int code = ended ? 0 : request_part(session, &session->files[i], &offset);
      pthread_mutex_unlock(&session->mutex);
      if (ended) return 4;
      if (code != 0) return failed(session, "request", code, 4);
    } while (offset < session->files[i].size);
  }
  return 0;
}

static void stream(struct session* session) {
  pthread_t thread;
  if (session->own_thread && pthread_create(&thread, NULL, take_responses, session) != 0) {
    note(session, 1);
    return;
  }
  request_all(session);
  pthread_mutex_lock(&session->mutex);
  session->all_requested = 1;
  pthread_mutex_unlock(&session->mutex);
  if (session->own_thread) {
    pthread_join(thread, NULL);
  } else {
    take_responses(session);
  }
  if (session->result < 4 && poll_once(session)) broken(session, "a superfluous response");
}

static void* run_session(void* argument) {
  struct session* const session = argument;
  int code = runai_file_streamer_start(&session->streamer);
  if (code != 0) {
    failed(session, "start", code, 4);
    return NULL;
  }
  if (session->strategy != NULL) {
    code = runai_file_streamer_set_fs_strategy(session->streamer, session->strategy);
    if (code != 0) failed(session, "set_fs_strategy", code, 4);
  }
  if (session->result == 0 && give_credentials(session) == 0) stream(session);
  runai_file_streamer_end(session->streamer);
  return NULL;
}

static int prepare(struct session* session, const char* directory, int number, int paths,
                   char** arguments) {
  session->directory = directory;
  session->number = number;
  session->num_files = (uint32_t)paths;
  session->files = calloc((size_t)paths, sizeof(*session->files));
  if (session->files == NULL) return 1;
  pthread_mutex_init(&session->mutex, NULL);
  pthread_cond_init(&session->changed, NULL);
  for (uint32_t i = 0; i < session->num_files; ++i) {
    session->files[i].path = arguments[2 * i];
    session->files[i].size = strtoull(arguments[2 * i + 1], NULL, 10);
    if (make_destination(session, i) != 0) return 1;
  }
  return 0;
}

static int usage(void) {
  fputs("usage: restore [--strategy=CANDIDATES] [--sessions=N] [--thread] DIRECTORY PATH SIZE...\n",
        stderr);
  return 2;
}

int main(int argc, char** argv) {
  const char* strategy = NULL;
  int sessions = 1;
  int own_thread = 0;
  int at = 1;
  for (; at < argc && strncmp(argv[at], "--", 2) == 0; ++at) {
    if (strcmp(argv[at], "--thread") == 0) {
      own_thread = 1;
    } else if (strncmp(argv[at], "--strategy=", 11) == 0) {
      strategy = argv[at] + 11;
    } else if (strncmp(argv[at], "--sessions=", 11) == 0) {
      sessions = atoi(argv[at] + 11);
    } else {
      return usage();
    }
  }
  if (argc - at < 3 || (argc - at) % 2 == 0 || sessions < 1) return usage();
  struct session* const all = calloc((size_t)sessions, sizeof(*all));
  pthread_t* const threads = calloc((size_t)sessions, sizeof(*threads));
  if (all == NULL || threads == NULL) return 1;
  for (int i = 0; i < sessions; ++i) {
    all[i].strategy = strategy;
    all[i].own_thread = own_thread;
    if (prepare(&all[i], argv[at], i, (argc - at - 1) / 2, argv + at + 1) != 0) return 1;
  }
  for (int i = 0; i < sessions; ++i) {
    if (pthread_create(&threads[i], NULL, run_session, &all[i]) != 0) return 1;
  }
  int result = 0;
  for (int i = 0; i < sessions; ++i) {
    pthread_join(threads[i], NULL);
    if (all[i].result > result) result = all[i].result;
    for (uint32_t j = 0; j < all[i].num_files; ++j) {
      struct file* const file = &all[i].files[j];
      if (file->data != NULL) munmap(file->data, file->size);
    }
    free(all[i].files);
  }
  free(threads);
  free(all);
  return result;
}

/* Loaded before libc: reads behind byte SHIM_FROM of files whose names end in SHIM_NAME, or in
 * .safetensors, fail with SHIM_ERRNO, or hang for SHIM_SECONDS, once the file that SHIM_WHEN names
 * exists. A read that hangs creates the file that SHIM_FLAG names. With SHIM_UNTIL they wait until
 * that file exists, and fail if it does not after a minute. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int active(void) {
  const char* when = getenv("SHIM_WHEN");
  return when == NULL || access(when, F_OK) == 0;
}

static int is_model(int fd) {
  char link[64];
  char path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length < 0) return 0;
  path[length] = 0;
  const char* end = getenv("SHIM_NAME") != NULL ? getenv("SHIM_NAME") : ".safetensors";
  const size_t size = strlen(end);
  return (size_t)length >= size && strcmp(path + length - size, end) == 0;
}

/* 0, or what errno is to be. */
static int fault(void) {
  const char* seconds = getenv("SHIM_SECONDS");
  if (seconds != NULL) {
    const char* flag = getenv("SHIM_FLAG");
    if (flag != NULL) close(open(flag, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    struct timespec rest = {atoi(seconds), 0};
    while (nanosleep(&rest, &rest) != 0) {
    }
  }
  const char* until = getenv("SHIM_UNTIL");
  if (until != NULL) {
    for (int i = 0; access(until, F_OK) != 0; ++i) {
      if (i == 60000) return EIO;
      const struct timespec moment = {0, 1000000};
      nanosleep(&moment, NULL);
    }
  }
  const char* number = getenv("SHIM_ERRNO");
  return number == NULL ? 0 : atoi(number);
}

ssize_t preadv2(int fd, const struct iovec* segments, int count, off_t offset, int flags) {
  const char* from = getenv("SHIM_FROM");
  off_t end = offset;
  for (int i = 0; i < count; ++i) end += (off_t)segments[i].iov_len;
  if (from != NULL && end > atoll(from) && active() && is_model(fd)) {
    if (flags & RWF_NOWAIT) {
      errno = EAGAIN;
      return -1;
    }
    const int os_error = fault();
    if (os_error != 0) {
      errno = os_error;
      return -1;
    }
  }
  return syscall(SYS_preadv2, fd, segments, count, offset, 0L, flags);
}

ssize_t preadv64v2(int fd, const struct iovec* segments, int count, off_t offset, int flags) {
  return preadv2(fd, segments, count, offset, flags);
}

ssize_t preadv(int fd, const struct iovec* segments, int count, off_t offset) {
  return preadv2(fd, segments, count, offset, 0);
}

ssize_t preadv64(int fd, const struct iovec* segments, int count, off_t offset) {
  return preadv2(fd, segments, count, offset, 0);
}

ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  const struct iovec segment = {data, size};
  return preadv2(fd, &segment, 1, offset, 0);
}

ssize_t pread64(int fd, void* data, size_t size, off_t offset) {
  return pread(fd, data, size, offset);
}

int madvise(void* address, size_t size, int advice) {
  if (advice == 22 /* MADV_POPULATE_READ */ && size > 4096 && getenv("SHIM_FROM") != NULL &&
      active()) {
    if (fault() != 0) {
      errno = EFAULT;
      return -1;
    }
  }
  return (int)syscall(SYS_madvise, address, size, advice);
}

/* Loaded before libc: call number k of a function by the package and its libraries fails.
 *
 * failing_arm("pread", k, EIO) has the call number k (0, 1, ...) from then on fail, in any thread;
 * failing_calls() says how many there were. Calls of other libraries are neither counted nor failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char armed[32];
static atomic_long calls;
static long failing = -1;
static int error_number;

static struct {
  uintptr_t begin, end;
  int runtime; /* that of C++, which others call, too */
} ours[32];
static int modules;

static int add_module(struct dl_phdr_info* info, size_t size, void* data) {
  (void)size, (void)data;
  static const char* const names[] = {"libstreamer", "/_native.", "libcurl",
                                      "libssl",      "libcrypto", "libstdc++"};
  for (size_t name = 0; name < sizeof(names) / sizeof(names[0]); ++name) {
    if (strstr(info->dlpi_name, names[name]) == NULL) continue;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr)* part = &info->dlpi_phdr[i];
      if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || modules == 32) continue;
      ours[modules].begin = info->dlpi_addr + part->p_vaddr;
      ours[modules].end = ours[modules].begin + part->p_memsz;
      ours[modules].runtime = strcmp(names[name], "libstdc++") == 0;
      ++modules;
    }
  }
  return 0;
}

void failing_arm(const char* function, long index, int number) {
  armed[0] = 0;
  modules = 0;
  dl_iterate_phdr(add_module, NULL);
  calls = 0;
  failing = index;
  error_number = number;
  strncpy(armed, function, sizeof(armed) - 1);
}

long failing_calls(void) { return calls; }

static int fails(const char* function, void* caller) {
  if (armed[0] == 0 || strcmp(armed, function) != 0) return 0;
  for (int i = 0; i < modules; ++i) {
    if ((uintptr_t)caller < ours[i].begin || (uintptr_t)caller >= ours[i].end) continue;
    /* The main thread's are Python's and torch's. */
    if (ours[i].runtime && strcmp(function, "malloc") == 0 && gettid() == getpid()) return 0;
    if (atomic_fetch_add(&calls, 1) != failing) return 0;
    errno = error_number;
    return 1;
  }
  return 0;
}

/* The next definition of a function, found once. */
static void* next_of(_Atomic(void*)* known, const char* name) {
  void* found = atomic_load(known);
  if (found == NULL) atomic_store(known, found = dlsym(RTLD_NEXT, name));
  return found;
}

#define FAILS(name) fails(name, __builtin_return_address(0))
#define NEXT(function)           \
  static _Atomic(void*) known;   \
  __typeof__(function)* const next = (__typeof__(function)*)next_of(&known, #function)

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? va_arg(rest, int) : 0;
  va_end(rest);
  if (FAILS("open")) return -1;
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  if (FAILS("pread")) return -1;
  return syscall(SYS_pread64, fd, data, size, offset);
}

ssize_t preadv(int fd, const struct iovec* segments, int count, off_t offset) {
  if (FAILS("preadv")) return -1;
  return syscall(SYS_preadv, fd, segments, count, offset, 0L);
}

ssize_t preadv2(int fd, const struct iovec* segments, int count, off_t offset, int flags) {
  if (FAILS("preadv2")) return -1;
  return syscall(SYS_preadv2, fd, segments, count, offset, 0L, flags);
}

int fstat(int fd, struct stat* info) {
  if (FAILS("fstat")) return -1;
  NEXT(fstat);
  return next(fd, info);
}

void* mmap(void* address, size_t size, int access, int flags, int fd, off_t offset) {
  if (FAILS("mmap")) return (void*)-1;
  return (void*)syscall(SYS_mmap, address, size, access, flags, fd, offset);
}

void* mmap64(void* address, size_t size, int access, int flags, int fd, off_t offset) {
  if (FAILS("mmap")) return (void*)-1;
  return (void*)syscall(SYS_mmap, address, size, access, flags, fd, offset);
}

void* mremap(void* address, size_t size, size_t new_size, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  void* const to = va_arg(rest, void*);
  va_end(rest);
  if (FAILS("mremap")) return (void*)-1;
  return (void*)syscall(SYS_mremap, address, size, new_size, flags, to);
}

int madvise(void* address, size_t size, int advice) {
  if (FAILS("madvise")) return -1;
  return (int)syscall(SYS_madvise, address, size, advice);
}

ssize_t vmsplice(int fd, const struct iovec* segments, size_t count, unsigned flags) {
  if (FAILS("vmsplice")) return -1;
  return syscall(SYS_vmsplice, fd, segments, count, flags);
}

ssize_t tee(int from, int to, size_t size, unsigned flags) {
  if (FAILS("tee")) return -1;
  return syscall(SYS_tee, from, to, size, flags);
}

int pipe2(int* ends, int flags) {
  if (FAILS("pipe2")) return -1;
  return (int)syscall(SYS_pipe2, ends, flags);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                   void* argument) {
  if (FAILS("pthread_create")) return error_number;
  NEXT(pthread_create);
  return next(thread, attributes, body, argument);
}

int socket(int domain, int type, int protocol) {
  if (FAILS("socket")) return -1;
  return (int)syscall(SYS_socket, domain, type, protocol);
}

int connect(int fd, const struct sockaddr* address, socklen_t size) {
  if (FAILS("connect")) return -1;
  return (int)syscall(SYS_connect, fd, address, size);
}

ssize_t recv(int fd, void* data, size_t size, int flags) {
  if (FAILS("recv")) return -1;
  return syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL);
}

ssize_t send(int fd, const void* data, size_t size, int flags) {
  if (FAILS("send")) return -1;
  return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}

ssize_t read(int fd, void* data, size_t size) {
  if (FAILS("read")) return -1;
  return syscall(SYS_read, fd, data, size);
}

ssize_t write(int fd, const void* data, size_t size) {
  if (FAILS("write")) return -1;
  return syscall(SYS_write, fd, data, size);
}

extern void* __libc_malloc(size_t size);
extern void* __libc_calloc(size_t count, size_t size);
extern void* __libc_realloc(void* data, size_t size);
extern void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) { return FAILS("malloc") ? NULL : __libc_malloc(size); }
void* calloc(size_t count, size_t size) {
  return FAILS("malloc") ? NULL : __libc_calloc(count, size);
}
void* realloc(void* data, size_t size) {
  return FAILS("malloc") ? NULL : __libc_realloc(data, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  return FAILS("malloc") ? NULL : __libc_memalign(alignment, size);
}

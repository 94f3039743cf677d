/* Answers the calls that depend on the page size as a kernel with pages of LARGE_PAGES_KIB does: 16,
 * or 64, the default (Linux on aarch64 offers both). Loaded before libc (LD_PRELOAD), or linked into
 * a test program.
 *
 * Addresses that are no multiple of a page are refused with EINVAL; lengths are rounded up; mappings
 * start at multiples of a page; cachestat(2) counts such pages. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL_PAGE ((size_t)4096)
#define MOST_PARTS 16
#define PAGE page()
#define CACHESTAT 451

static unsigned long refused;

static size_t page(void) {
  static size_t chosen;
  if (chosen == 0) {
    if (environ == NULL) return (size_t)64 << 10; /* the process has just begun */
    const char* const text = getenv("LARGE_PAGES_KIB");
    chosen = (size_t)(text == NULL ? 64 : atoi(text)) << 10;
  }
  return chosen;
}

/* Number of calls refused since the process began: each is a defect of the caller. */
unsigned long large_pages_refused(void) { return __atomic_load_n(&refused, __ATOMIC_RELAXED); }

static size_t up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }
static int unaligned(const void* address) { return (uintptr_t)address % PAGE != 0; }

static long refuse(void) {
  __atomic_add_fetch(&refused, 1, __ATOMIC_RELAXED);
  errno = EINVAL;
  return -1;
}

static void* map(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return (void*)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

static long (*next_syscall)(long, ...);
static long (*next_sysconf)(int);
static unsigned long (*next_getauxval)(unsigned long);

/* Declared by hand: here syscall() itself is replaced. */
static long kernel(long number, long a, long b, long c, long d, long e, long f) {
  if (next_syscall == NULL) *(void**)&next_syscall = dlsym(RTLD_NEXT, "syscall");
  return next_syscall(number, a, b, c, d, e, f);
}

long syscall(long number, ...) {
  long v[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; ++i) v[i] = va_arg(list, long);
  va_end(list);
  const long result = kernel(number, v[0], v[1], v[2], v[3], v[4], v[5]);
  if (number == CACHESTAT && result == 0) {
    uint64_t* counts = (uint64_t*)v[2];
    for (int i = 0; i < 5; ++i) counts[i] = (counts[i] + PAGE / REAL_PAGE - 1) / (PAGE / REAL_PAGE);
  }
  return result;
}

long sysconf(int name) {
  if (name == _SC_PAGESIZE) return (long)PAGE;
  if (next_sysconf == NULL) *(void**)&next_sysconf = dlsym(RTLD_NEXT, "sysconf");
  return next_sysconf(name);
}

int getpagesize(void) { return (int)PAGE; }

unsigned long getauxval(unsigned long type) {
  if (type == AT_PAGESZ) return PAGE;
  if (next_getauxval == NULL) *(void**)&next_getauxval = dlsym(RTLD_NEXT, "getauxval");
  return next_getauxval(type);
}

void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  if (length == 0 || (size_t)offset % PAGE != 0) return (void*)refuse();
  const size_t whole = up(length, PAGE);
  if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0) {
    if (unaligned(address)) return (void*)refuse();
    return map(address, whole, protection, flags, fd, offset);
  }
  /* Address space first, with room to align; the rest behind the file's last page is zeros. */
  const int reserve = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* const room = map(NULL, whole + PAGE, protection, reserve, -1, 0);
  if (room == MAP_FAILED) return MAP_FAILED;
  char* const start = (char*)up((uintptr_t)room, PAGE);
  const size_t mapped = (flags & MAP_ANONYMOUS) != 0 ? whole : length;
  if (map(start, mapped, protection, flags | MAP_FIXED, fd, offset) == MAP_FAILED) {
    const int os_error = errno;
    syscall(SYS_munmap, room, whole + PAGE);
    errno = os_error;
    return MAP_FAILED;
  }
  if (start > room) syscall(SYS_munmap, room, (size_t)(start - room));
  const size_t behind = PAGE - (size_t)(start - room);
  if (behind > 0) syscall(SYS_munmap, start + whole, behind);
  return start;
}
void* mmap64(void* address, size_t length, int protection, int flags, int fd, off_t offset) {
  return mmap(address, length, protection, flags, fd, offset);
}

int munmap(void* address, size_t length) {
  if (unaligned(address) || length == 0) return (int)refuse();
  return (int)syscall(SYS_munmap, address, up(length, PAGE));
}

int madvise(void* address, size_t length, int advice) {
  if (unaligned(address)) return (int)refuse();
  return (int)syscall(SYS_madvise, address, up(length, PAGE), advice);
}

int mprotect(void* address, size_t length, int protection) {
  if (unaligned(address)) return (int)refuse();
  return (int)syscall(SYS_mprotect, address, up(length, PAGE), protection);
}

int mincore(void* address, size_t length, unsigned char* present) {
  if (unaligned(address)) return (int)refuse();
  for (size_t at = 0; at < length; at += PAGE) {
    unsigned char parts[MOST_PARTS];
    if (syscall(SYS_mincore, (char*)address + at, PAGE, parts) != 0) return -1;
    present[at / PAGE] = parts[0];
    for (size_t i = 1; i < PAGE / REAL_PAGE; ++i) present[at / PAGE] |= parts[i];
  }
  return 0;
}

void* mremap(void* address, size_t length, size_t new_length, int flags, ...) {
  va_list list;
  va_start(list, flags);
  void* const target = (flags & MREMAP_FIXED) != 0 ? va_arg(list, void*) : NULL;
  va_end(list);
  if (unaligned(address) || unaligned(target)) return (void*)refuse();
  return (void*)syscall(SYS_mremap, address, up(length, PAGE), up(new_length, PAGE), flags, target);
}

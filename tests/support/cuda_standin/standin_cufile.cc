// A stand-in for libcufile: reads files into the "device" memory of the stand-in driver.
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "standin.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Error {
  int code;
  int driver;
};

struct Descriptor {
  int type;
  union {
    int fd;
    void* handle;
  } file;
  const void* operations;
};

struct Handle {
  int fd;
};

std::mutex mutex;
std::map<std::string, int> failures;  // function -> calls that still succeed before one fails
std::uint64_t reads = 0;
std::uint64_t handles = 0;

bool fails(const std::string& function) {
  const std::lock_guard lock(mutex);
  const auto it = failures.find(function);
  if (it == failures.end()) return false;
  if (it->second-- > 0) return false;
  failures.erase(it);
  return true;
}

}  // namespace

EXPORT Error cuFileDriverOpen() {
  static bool open = false;
  if (fails("cuFileDriverOpen")) return {5001, 0};
  const std::lock_guard lock(mutex);
  return {std::exchange(open, true) ? 5026 : 0, 0};
}

EXPORT Error cuFileHandleRegister(void** handle, Descriptor* descriptor) {
  if (descriptor->type != 1) return {5022, 0};
  if (fails("cuFileHandleRegister")) return {5027, 0};
  *handle = new Handle{descriptor->file.fd};
  const std::lock_guard lock(mutex);
  ++handles;
  return {0, 0};
}

EXPORT void cuFileHandleDeregister(void* handle) {
  delete static_cast<Handle*>(handle);
  const std::lock_guard lock(mutex);
  --handles;
}

EXPORT ssize_t cuFileRead(void* handle, void* memory, std::size_t size, off_t file_offset,
                          off_t memory_offset) {
  if (fails("cuFileRead")) return -5011;
  auto* const target = static_cast<char*>(memory) + memory_offset;
  if (standin_owns(target, size) == 0) return -5030;
  // A read may give less than was asked for, as the real one may. The file is open for O_DIRECT, so
  // the bytes are read by way of aligned memory.
  const std::size_t part = size > (1 << 20) ? size / 2 : size;
  const auto start = file_offset / 4096 * 4096;
  const auto skip = static_cast<std::size_t>(file_offset - start);
  const std::size_t room = (skip + part + 4095) / 4096 * 4096;
  auto* const bounce = static_cast<char*>(std::aligned_alloc(4096, room));
  const ssize_t got = pread(static_cast<Handle*>(handle)->fd, bounce, room, start);
  ssize_t useful = -1;
  if (got >= 0) {
    const auto read = static_cast<std::size_t>(got);
    useful = read <= skip ? 0 : static_cast<ssize_t>(read - skip < part ? read - skip : part);
    for (ssize_t i = 0; i < useful; ++i) target[i] = bounce[skip + static_cast<std::size_t>(i)];
  }
  const int os_error = errno;
  std::free(bounce);
  const std::lock_guard lock(mutex);
  ++reads;
  errno = os_error;
  return useful;
}

// The call of `function` after the next `after` ones fails.
EXPORT void standin_cufile_fail(const char* function, int after) {
  const std::lock_guard lock(mutex);
  failures[function] = after;
}

EXPORT std::uint64_t standin_cufile_reads() {
  const std::lock_guard lock(mutex);
  return reads;
}

EXPORT std::uint64_t standin_cufile_handles() {
  const std::lock_guard lock(mutex);
  return handles;
}

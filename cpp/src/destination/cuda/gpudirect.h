// GPUDirect Storage: files read straight into device memory by libcufile, loaded at run time.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/mutex.h"
#include "destination/cuda/context.h"

namespace streamer::gpu {

// Thread-safe. Reads that can't be made in this way are left to others, with the reason kept.
class GpuDirect {
 public:
  // `library`: a path; empty: the system's. kUnsupported with the reason if it can't be used.
  static Result<std::unique_ptr<GpuDirect>> open(const DeviceContext& context,
                                                 const std::string& library);
  // Files must still be open.
  ~GpuDirect();
  GpuDirect(const GpuDirect&) = delete;
  GpuDirect& operator=(const GpuDirect&) = delete;

  // Reads consecutive bytes of the file `fd` from `offset` to the device addresses of `segments`.
  // False if it can't: then none of them can be relied on.
  bool read(int fd, std::uint64_t offset, std::span<const iovec> segments);
  // Its use and the reason of the first failure, in words.
  std::string summary() const;
  // Closes nothing from now on: the process was forked.
  void abandon();

 private:
  struct Error {  // CUfileError_t
    int code;     // of libcufile
    int driver;   // of CUDA
  };
  struct Descriptor {  // CUfileDescr_t
    int type;
    union {
      int fd;
      void* handle;
    } file;
    const void* operations;
  };
  struct Functions {
    Error (*driver_open)() = nullptr;
    Error (*handle_register)(void** handle, Descriptor* descriptor) = nullptr;
    void (*handle_deregister)(void* handle) = nullptr;
    ssize_t (*read)(void* handle, void* memory, std::size_t size, off_t file_offset,
                    off_t memory_offset) = nullptr;
  };

  explicit GpuDirect(const DeviceContext& context) : context_(context) {}
  Status start(const std::string& library);
  void* handle_of(int fd) EXCLUDES(mutex_);
  void note(const std::string& problem) REQUIRES(mutex_);

  const DeviceContext& context_;
  Functions functions_;
  mutable Mutex mutex_;
  std::map<int, void*> handles_ GUARDED_BY(mutex_);  // null: refused
  bool used_ GUARDED_BY(mutex_) = false;
  std::string problem_ GUARDED_BY(mutex_);
};

}  // namespace streamer::gpu

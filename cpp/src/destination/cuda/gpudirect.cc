#include "destination/cuda/gpudirect.h"

#include <dlfcn.h>

#include <cerrno>
#include <cstring>

namespace streamer::gpu {
namespace {

constexpr int kOpaqueDescriptor = 1;  // CU_FILE_HANDLE_TYPE_OPAQUE_FD
constexpr int kAlreadyOpen = 5026;    // CU_FILE_DRIVER_ALREADY_OPEN: by another user of the process

Status unusable(const std::string& why) { return Status::error(Code::kUnsupported, why); }

}  // namespace

Result<std::unique_ptr<GpuDirect>> GpuDirect::open(const DeviceContext& context,
                                                   const std::string& library) {
  std::unique_ptr<GpuDirect> made(new GpuDirect(context));
  if (Status status = made->start(library); !status.ok()) return status;
  return made;
}

Status GpuDirect::start(const std::string& library) {
  if (context_.driver().is_hip()) return unusable("it is for NVIDIA's GPUs");
  const char* const name = library.c_str();
  // Stays loaded: it may have threads of its own.
  void* const handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const reason = dlerror();
    return unusable(reason != nullptr ? reason : std::string(name) + " can't be loaded");
  }
  const auto bind = [&](auto* function, const char* symbol) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(handle, symbol));
    return *function != nullptr;
  };
  if (!bind(&functions_.driver_open, "cuFileDriverOpen") ||
      !bind(&functions_.handle_register, "cuFileHandleRegister") ||
      !bind(&functions_.handle_deregister, "cuFileHandleDeregister") ||
      !bind(&functions_.read, "cuFileRead")) {
    return unusable(std::string(name) + " lacks the functions of libcufile");
  }
  const ContextGuard guard(context_.driver(), context_.handle());
  const Error error = functions_.driver_open();
  if (error.code != 0 && error.code != kAlreadyOpen) {
    return unusable("its driver can't be opened (error " + std::to_string(error.code) + ", CUDA " +
                    std::to_string(error.driver) + ")");
  }
  return {};
}

GpuDirect::~GpuDirect() {
  const ContextGuard guard(context_.driver(), context_.handle());
  for (const auto& [fd, handle] : handles_) {
    if (handle != nullptr) functions_.handle_deregister(handle);
  }
}

void GpuDirect::abandon() {
  const MutexLock lock(mutex_);
  handles_.clear();
}

void GpuDirect::note(const std::string& problem) {
  if (problem_.empty()) problem_ = problem;
}

std::string GpuDirect::summary() const {
  const MutexLock lock(mutex_);
  const std::string used = used_ ? "used" : "not used";
  if (!problem_.empty()) return used + ": " + problem_;
  return used_ ? used : used + ": no local file was read";
}

void* GpuDirect::handle_of(int fd) {
  const MutexLock lock(mutex_);
  if (const auto known = handles_.find(fd); known != handles_.end()) return known->second;
  Descriptor descriptor{};
  descriptor.type = kOpaqueDescriptor;
  descriptor.file.fd = fd;
  void* handle = nullptr;
  const Error error = functions_.handle_register(&handle, &descriptor);
  if (error.code != 0) {
    handle = nullptr;
    note("a file was refused (error " + std::to_string(error.code) + ")");
  }
  return handles_[fd] = handle;
}

bool GpuDirect::read(int fd, std::uint64_t offset, std::span<const iovec> segments) {
  const ContextGuard guard(context_.driver(), context_.handle());
  void* const handle = handle_of(fd);
  if (handle == nullptr) return false;
  for (const iovec& segment : segments) {
    for (std::size_t done = 0; done < segment.iov_len;) {
      const ssize_t got = functions_.read(handle, segment.iov_base, segment.iov_len - done,
                                          static_cast<off_t>(offset), static_cast<off_t>(done));
      if (got <= 0) {
        const MutexLock lock(mutex_);
        note(got == 0    ? "a file ended early"
             : got == -1 ? std::string("a read failed: ") + std::strerror(errno)
                         : "a read failed (error " + std::to_string(-got) + ")");
        return false;
      }
      done += static_cast<std::size_t>(got);
      offset += static_cast<std::uint64_t>(got);
    }
  }
  const MutexLock lock(mutex_);
  used_ = true;
  return true;
}

}  // namespace streamer::gpu

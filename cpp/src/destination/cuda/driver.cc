#include "destination/cuda/driver.h"

#include <dlfcn.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <utility>

#include "base/mutex.h"

namespace streamer::gpu {
namespace {

Status no_driver(const std::string& why) {
  return Status::error(Code::kDevice, "no usable GPU driver: " + why)
      .with_device_fault(DeviceFault::kNoDevice)
      .with_hint(
          "Install the NVIDIA driver (libcuda.so.1), expose it to the container, or load to "
          "device=\"cpu\"");
}

std::string dl_reason() {
  const char* reason = dlerror();
  return reason != nullptr ? reason : "unknown reason";
}

// The library of this system. HIP's is taken if PyTorch for ROCm has loaded it, or by its name.
void* open_default(std::string* why) {
  if (void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) return library;
  *why = dl_reason();
  for (const int mode : {RTLD_NOLOAD, 0}) {
    for (const char* name : {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"}) {
      if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL | mode)) return library;
    }
  }
  return nullptr;
}

}  // namespace

Status Driver::bind(const std::string& path) {
  std::string why;
  if (path.empty()) {
    library_ = open_default(&why);
  } else if ((library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) == nullptr) {
    why = dl_reason();
  }
  if (library_ == nullptr) return no_driver(why);
  hip_ = dlsym(library_, "cuInit") == nullptr;
#define STREAMER_GPU_BIND(member, cuda, hip, ...)                                  \
  member = reinterpret_cast<decltype(member)>(dlsym(library_, hip_ ? hip : cuda)); \
  if (member == nullptr) return no_driver(std::string("it has no ") + (hip_ ? hip : cuda));
  STREAMER_GPU_FUNCTIONS(STREAMER_GPU_BIND)
#undef STREAMER_GPU_BIND
  return {};
}

Status Driver::initialise() {
  const pid_t self = getpid();
  if (process_ == self) return {};
  const int code = process_ == 0 ? init(0) : static_cast<int>(kNotInitialized);
  if (code == kSuccess) {
    process_ = self;
    return {};
  }
  if (code == kNotInitialized) {
    return error(code, "the GPU was used before this process was forked, so it can't be used here")
        .with_hint(
            "Start worker processes by spawn or forkserver, or use the GPU only after the fork");
  }
  return error(code, "the GPU driver could not be initialised");
}

Result<const Driver*> Driver::load(const std::string& path) {
  // Never freed: threads of a closing process may still be in a driver's function.
  static auto* const mutex = new Mutex;
  static auto* const drivers = new std::map<std::string, std::unique_ptr<Driver>>;
  const MutexLock lock(*mutex);
  auto it = drivers->find(path);
  if (it == drivers->end()) {
    auto driver = std::make_unique<Driver>();
    if (Status status = driver->bind(path); !status.ok()) {
      if (driver->library_ != nullptr) dlclose(driver->library_);
      return status;
    }
    it = drivers->emplace(path, std::move(driver)).first;
  }
  if (Status status = it->second->initialise(); !status.ok()) return status;
  return it->second.get();
}

Status Driver::error(int code, const std::string& what) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (error_name(code, &name) != kSuccess || name == nullptr) name = "unknown error";
  if (error_string(code, &text) != kSuccess || text == nullptr) text = "no description";
  const std::string number = std::to_string(code);
  Status status =
      Status::error(Code::kDevice, what + " (" + name + " " + number + ": " + text + ")")
          .with_http(0, name, text, "");
  if (code == kNoDevice) return std::move(status).with_device_fault(DeviceFault::kNoDevice);
  if (is_sticky(code)) return std::move(status).with_hint(kStickyHint);
  return status;
}

}  // namespace streamer::gpu

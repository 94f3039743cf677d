#include "destination/cuda/context.h"

#include <utility>

namespace streamer::gpu {

Result<DeviceContext> DeviceContext::find(const Driver& driver, int ordinal) {
  DeviceContext found(&driver, ordinal);
  int count = 0;
  if (int code = driver.device_count(&count); code != kSuccess) {
    return driver.error(code, "GPUs can't be counted");
  }
  if (ordinal < 0 || ordinal >= count) {
    return driver
        .error(kInvalidDevice, "there is no device " + found.name() + ": this process sees " +
                                   std::to_string(count))
        .with_device_fault(count == 0 ? DeviceFault::kNoDevice : DeviceFault::kOrdinal)
        .with_hint("Check the device's number and CUDA_VISIBLE_DEVICES");
  }
  if (int code = driver.device_get(&found.device_, ordinal); code != kSuccess) {
    return driver.error(code, found.name() + " can't be used");
  }

  Context current = nullptr;
  int device = -1;
  if (driver.context_current(&current) != kSuccess || current == nullptr ||
      driver.context_device(&device) != kSuccess || device != found.device_) {
    current = nullptr;
  }
  unsigned flags = 0;
  int active = 0;
  if (int code = driver.primary_state(found.device_, &flags, &active); code != kSuccess) {
    return driver.error(code, found.name() + " can't be used");
  }
  // In HIP, `active` means that it is current in this thread; to retain it creates nothing.
  if (active != 0 || driver.is_hip()) {
    if (int code = driver.primary_retain(&found.context_, found.device_); code != kSuccess) {
      return driver.error(code, "the context of " + found.name() + " can't be used");
    }
    found.retained_ = true;
  }
  if (current != nullptr) found.context_ = current;  // the caller chose it
  if (found.context_ == nullptr) {
    return Status::error(Code::kDevice,
                         "nothing has used " + found.name() +
                             " in this process, so no memory there can be a destination")
        .with_hint("Allocate the destination first; that creates the device's context");
  }
  return found;
}

DeviceContext::DeviceContext(DeviceContext&& other) noexcept
    : driver_(other.driver_),
      ordinal_(other.ordinal_),
      device_(other.device_),
      context_(other.context_),
      retained_(std::exchange(other.retained_, false)) {}

DeviceContext::~DeviceContext() {
  if (retained_) driver_->primary_release(device_);
}

}  // namespace streamer::gpu

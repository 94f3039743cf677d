// The context of a device: the one that the process uses already, never a new one.
#pragma once

#include <string>

#include "destination/cuda/driver.h"

namespace streamer::gpu {

// Keeps the context alive. Move-only; any thread may use it.
class DeviceContext {
 public:
  // The context that is current in this thread if it is of device `ordinal`, else the device's
  // primary context if it is active (PyTorch's is). kDevice if there is neither.
  static Result<DeviceContext> find(const Driver& driver, int ordinal);

  DeviceContext(DeviceContext&& other) noexcept;
  DeviceContext& operator=(DeviceContext&&) = delete;
  ~DeviceContext();

  const Driver& driver() const { return *driver_; }
  Context handle() const { return context_; }
  int ordinal() const { return ordinal_; }
  std::string name() const { return "cuda:" + std::to_string(ordinal_); }  // as in PyTorch
  // Releases nothing from now on: in a forked child the driver must not be called.
  void abandon() { retained_ = false; }

 private:
  DeviceContext(const Driver* driver, int ordinal) : driver_(driver), ordinal_(ordinal) {}

  const Driver* driver_;
  int ordinal_;
  int device_ = 0;
  Context context_ = nullptr;
  bool retained_ = false;  // a reference to the primary context is ours
};

}  // namespace streamer::gpu

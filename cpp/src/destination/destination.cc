#include "destination/destination.h"

#include "destination/cuda/cuda_destination.h"

namespace streamer {

Result<std::unique_ptr<Destination>> make_destination(Device device, const Options& options,
                                                      MemoryBudget& budget) {
  switch (device.type) {
    case DeviceType::kCuda: return make_cuda_destination(device.ordinal, options, budget);
    case DeviceType::kHost: break;
  }
  return Status::error(Code::kUnsupported, "nothing can be copied to devices of this kind");
}

}  // namespace streamer

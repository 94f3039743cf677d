#include "destination/destination.h"

namespace streamer {

Result<std::unique_ptr<Destination>> make_destination(Device /*device*/, const Options& /*options*/,
                                                      MemoryBudget& /*budget*/) {
  return Status::error(Code::kUnsupported, "this build has no support for devices");
}

}  // namespace streamer

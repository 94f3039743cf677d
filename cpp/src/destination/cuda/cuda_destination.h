// Memory of NVIDIA GPUs, and of AMD's by the same interface.
#pragma once

#include <memory>

#include "destination/destination.h"

namespace streamer {

Result<std::unique_ptr<Destination>> make_cuda_destination(int ordinal, const Options& options,
                                                           MemoryBudget& budget);

}  // namespace streamer

// The alignment that direct reads of files need.
#pragma once

#include <cstddef>
#include <span>

#include "c_api/handle.h"

namespace streamer::c_api {

CallResult probe_direct_block(std::span<const char*> paths, std::size_t* block);

}  // namespace streamer::c_api

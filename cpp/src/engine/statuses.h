// Errors that more than one part of a stream reports.
#pragma once

#include "streamer/status.h"

namespace streamer {

inline Status stream_closed() { return Status::error(Code::kCancelled, "the stream was closed"); }

inline Status no_memory() {
  return Status::error(Code::kOutOfMemory, "the system has no memory for a read")
      .with_hint("Give the process more memory");
}

}  // namespace streamer

// The codes of the C ABI, made from the statuses of the engine.
#pragma once

#include "streamer/runai_file_streamer.h"
#include "streamer/types.h"

namespace streamer::c_api {

// The code for a failure while `kind` was read into `device`. 0 for an ok status.
int code_of(const Status& status, SourceKind kind, DeviceType device = DeviceType::kHost);

// Never null.
const char* describe(int code);

}  // namespace streamer::c_api

#include "streamer/types.h"

namespace streamer {

const char* version() noexcept { return STREAMER_VERSION; }

}  // namespace streamer

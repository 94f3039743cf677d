// Sources that are reached over HTTP. Absent from builds without STREAMER_OBJECT_STORAGE.
#pragma once

#include <memory>

#include "source/source.h"

namespace streamer {

Result<std::unique_ptr<Source>> make_http_source(SourceKind kind, const SourceContext& context);

}  // namespace streamer

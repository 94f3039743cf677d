// Sources that are reached over HTTP. Absent from builds without STREAMER_OBJECT_STORAGE.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/settings.h"
#include "source/source.h"

namespace streamer {

Result<std::unique_ptr<Source>> make_http_source(SourceKind kind, const SourceContext& context);

// The local copy of a file of the model hub, where its tools keep one. Of a folder only where
// HF_HUB_OFFLINE forbids to ask the hub.
std::optional<std::string> find_in_hub_cache(const std::string& path, bool folder,
                                             const Settings& settings);

}  // namespace streamer

// Files: of local file systems and of shared ones (NFS, Lustre, FUSE).
#pragma once

#include <memory>

#include "source/source.h"

namespace streamer {

Result<std::unique_ptr<Source>> make_file_source(const SourceContext& context);

}  // namespace streamer

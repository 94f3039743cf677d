// Facts about files and objects, without a stream. Every function is thread-safe.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#include <cstdint>
#include <string>

#include "streamer/export.h"
#include "streamer/status.h"
#include "streamer/types.h"

namespace streamer {

// The part of the file at `path` that is in the page cache, from 0 to 1; 1 for an empty file. All
// pages of a small file are counted, and samples of a large one. Brings nothing into the page
// cache, except on kernels before 6.5 and for files of other users: there single pages.
STREAMER_EXPORT Result<double> cached_fraction(const std::string& path);

// The alignment in bytes of memory, offsets and sizes that direct reads (O_DIRECT) of the file at
// `path` need; 1 for an object.
STREAMER_EXPORT Result<std::uint64_t> direct_read_alignment(const std::string& path);

// The way to the object or the directory at `path`: the endpoint, the proxy and the identity, as a
// stream with `options` would use them. Asks nothing but for credentials. kInvalid for paths of
// files and for settings that make no sense, kCancelled when `options.interrupted` returns true.
STREAMER_EXPORT Result<Access> find_access(const std::string& path, const Options& options);

}  // namespace streamer

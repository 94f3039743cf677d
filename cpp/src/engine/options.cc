#include <algorithm>
#include <cctype>

#include "base/settings.h"
#include "base/system.h"
#include "engine/memory_limit.h"
#include "streamer/stream.h"

namespace streamer {

const char* version() noexcept { return STREAMER_VERSION; }

namespace {

// https://ACCOUNT.blob.core.windows.net/..., also of national clouds; with a query it is an address
// that grants access by itself.
bool is_azure_blob(const std::string& path, std::size_t host) {
  const std::size_t end = std::min(path.find('/', host), path.size());
  std::string name = path.substr(host, end - host);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return path.find('?') == std::string::npos && (name.find(".blob.core.") != std::string::npos ||
                                                 name.ends_with(".blob.storage.azure.net"));
}

}  // namespace

Result<SourceKind> source_kind_of(const std::string& path) {
  const std::size_t colon = path.find("://");
  if (colon == std::string::npos || path.find('/') < colon) return SourceKind::kFile;
  std::string scheme = path.substr(0, colon);
  std::transform(scheme.begin(), scheme.end(), scheme.begin(),
                 [](unsigned char c) { return static_cast<char>(c | 0x20); });
  if (scheme == "s3") return SourceKind::kS3;
  if (scheme == "gs") return SourceKind::kGcs;
  if (scheme == "az") return SourceKind::kAzure;
  if (scheme == "https" && is_azure_blob(path, colon + 3)) return SourceKind::kAzure;
  if (scheme == "http" || scheme == "https" || scheme == "hf") return SourceKind::kHttp;
  return Status::error(Code::kInvalid, "unknown scheme '" + scheme + "://'")
      .with_path(path)
      .with_hint("Known: a path of a file, s3://, gs://, az://, https://, http://, hf://");
}

Result<Options> Options::from_environment() {
  const Settings settings;
  Options options;
  auto concurrency = settings.integer("RUNAI_STREAMER_CONCURRENCY");
  if (!concurrency) return concurrency.status();
  options.concurrency = static_cast<int>(concurrency->value_or(0));
  auto chunk = settings.integer("RUNAI_STREAMER_CHUNK_BYTESIZE");
  if (!chunk) return chunk.status();
  options.chunk_bytes = static_cast<std::uint64_t>(chunk->value_or(0));
  auto limit = settings.integer("RUNAI_STREAMER_MEMORY_LIMIT");
  if (!limit) return limit.status();
  options.memory_limit = limit->value_or(-2);
  auto strategy = settings.choice("RUNAI_STREAMER_FS_STRATEGY");
  if (!strategy) return strategy.status();
  options.fs_strategy = strategy->value_or("auto");
  return options;
}

std::uint64_t initial_memory_limit(std::int64_t setting) {
  constexpr std::uint64_t kDefault = std::uint64_t{384} << 20;
  if (setting == -1) return kNoLimit;
  if (setting >= 0) return static_cast<std::uint64_t>(setting);
  return std::min(kDefault, cgroup_memory_limit() / 4);
}

}  // namespace streamer

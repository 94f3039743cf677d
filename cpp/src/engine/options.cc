#include "engine/options.h"

#include <algorithm>
#include <utility>

#include "base/default_sizes.h"
#include "base/settings.h"
#include "base/system.h"

namespace streamer {

Result<Options> Options::from_environment() {
  const Settings settings;
  Options options;
  auto concurrency = settings.integer("RUNAI_STREAMER_CONCURRENCY");
  if (!concurrency.ok()) return concurrency.status();
  options.concurrency = static_cast<int>(concurrency->value_or(0));
  auto of_objects = settings.integer("RUNAI_STREAMER_OBJ_CONCURRENCY");
  if (!of_objects.ok()) return of_objects.status();
  options.object_concurrency = static_cast<int>(of_objects->value_or(0));
  auto chunk = settings.integer("RUNAI_STREAMER_CHUNK_BYTESIZE");
  if (!chunk.ok()) return chunk.status();
  options.chunk_bytes = static_cast<std::uint64_t>(chunk->value_or(0));
  auto limit = settings.integer("RUNAI_STREAMER_MEMORY_LIMIT");
  if (!limit.ok()) return limit.status();
  if (*limit) {
    auto memory_limit = MemoryLimit::from_setting(**limit);
    if (!memory_limit.ok()) return memory_limit.status();
    options.memory_limit = *memory_limit;
  }
  constexpr const char* kStrategy = "RUNAI_STREAMER_FS_STRATEGY";
  const auto strategy = parse_fs_strategy(settings.text_or_default(kStrategy));
  if (!strategy.ok()) return settings.choice(kStrategy).status();
  options.fs_strategy.strategy = strategy->strategy;
  return options;
}

Status check_options(const Options& options) {
  const auto invalid = [](const std::string& what) { return Status::error(Code::kInvalid, what); };
  const auto in_range = [](const char* setting, auto number) {
    const SettingInfo& info = *find_setting(setting);
    return number == 0 || (std::cmp_greater_equal(number, info.minimum) &&
                           std::cmp_less_equal(number, info.maximum));
  };
  for (const int concurrency : {options.concurrency, options.object_concurrency}) {
    if (in_range("RUNAI_STREAMER_CONCURRENCY", concurrency)) continue;
    return invalid("concurrency " + std::to_string(concurrency) +
                   " is not between 1 and 1024, or 0 for adaptive");
  }
  if (!in_range("RUNAI_STREAMER_CHUNK_BYTESIZE", options.chunk_bytes)) {
    return invalid("chunk_bytes " + std::to_string(options.chunk_bytes) +
                   " is not between 4096 and 1 GiB, or 0 for the default");
  }
  return {};
}

AutomaticLimit automatic_memory_limit(std::uint64_t window_bytes) {
  const std::uint64_t first = std::min(window_bytes, cgroup_memory_limit() / 4);
  return {first, std::max(first, std::min(kMostAutomatic, available_memory() / 8))};
}

}  // namespace streamer

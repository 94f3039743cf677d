#include <limits>

#include "base/settings.h"

namespace streamer {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr auto kInteger = SettingType::kInteger;
constexpr auto kBytes = SettingType::kBytes;
constexpr auto kBool = SettingType::kBool;
constexpr auto kText = SettingType::kText;
constexpr auto kChoice = SettingType::kChoice;
constexpr const char* kSwitch = "0, 1, true, false, yes, no, on or off";
constexpr const char* kIgnored =
    "Accepted for compatibility and ignored: this engine has nothing that it would set.";

// clang-format off
constexpr SettingInfo kTable[] = {
    // group, name, type, standard, accepted, minimum, maximum, summary
    {"Reading", "RUNAI_STREAMER_CONCURRENCY", kInteger, "adaptive",
     "an integer from 1 to 1024", 1, 1024,
     "Exactly this many threads and connections read at once."},
    {"Reading", "RUNAI_STREAMER_CHUNK_BYTESIZE", kBytes, "2 MiB for files, 8 MiB for objects",
     "bytes, from 4096 to 1 GiB", 4096, std::int64_t{1} << 30,
     "Bytes of one read; for objects at least 5 MiB are used."},
    {"Reading", "RUNAI_STREAMER_FS_STRATEGY", kChoice, "auto",
     "auto|mapped|buffered|direct", 0, 0,
     "How files are read: mapped hands out views of the page cache, buffered copies from it, direct bypasses it (O_DIRECT), auto looks at the file system, the page cache and the memory."},
    {"Memory", "RUNAI_STREAMER_MEMORY_LIMIT", kBytes, "384 MiB, at most a quarter of the cgroup's memory, at least the largest tensor",
     "-1, 0 or bytes", -1, kMax,
     "Most bytes that the engine holds at once. -1: never wait for the consumer; 0: the least that works."},
    {"Logging", "RUNAI_STREAMER_LOG_LEVEL", kChoice, "INFO",
     "debug|info|warning|error|critical", 0, 0, "Level of the runai_model_streamer loggers."},
    {"Logging", "RUNAI_STREAMER_LOG_TO_STDERR", kBool, "0", kSwitch, 0, 0,
     "Write log lines to standard error instead of handing them to the root logger."},
    {"Logging", "RUNAI_STREAMER_LOG_FILE", kText, "none", "a path", 0, 0,
     "Append log lines to this file."},
    // Known from other implementations of this interface, without a meaning here.
    {"Ignored", "RUNAI_STREAMER_FS_CHUNK_BYTESIZE", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_FS_QUEUE_DEPTH", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_FS_MAX_ENGINES", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_FS_REGISTER_BUFFERS", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_FS_NO_REGISTER_BUFFERS", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_DIRECT_BLOCK", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_PINNED_MEMORY_MODE", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_RING_BUFFERS", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_MAX_PADS_PER_BUFFER", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_INFLIGHT_WINDOW_MARGIN", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_OVERRIDE_ENDPOINT_URL", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_S3_MAX_INFLIGHT_MIB", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_S3_TARGET_GBPS", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_S3_MAX_CONNECTIONS", kText, "", "anything", 0, 0, kIgnored},
    {"Ignored", "RUNAI_STREAMER_GCS_USE_GRPC", kText, "", "anything", 0, 0, kIgnored},
};
// clang-format on

}  // namespace

std::span<const SettingInfo> settings_table() { return kTable; }

}  // namespace streamer

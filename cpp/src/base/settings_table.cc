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
constexpr auto kSecret = SettingType::kSecret;
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
    {"Network", "RUNAI_STREAMER_MAX_ATTEMPTS", kInteger, "8", "an integer from 1 to 100", 1, 100,
     "Attempts at one request, the first included; pauses between them grow from 0.1 to 20 seconds. An address that has never answered gets at most 4."},
    {"Network", "RUNAI_STREAMER_CONNECT_TIMEOUT_MS", kInteger, "10000", "milliseconds", 1, 3600000,
     "Longest time to make a connection, TLS included."},
    {"Network", "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS", kInteger, "none", "milliseconds, 0: none", 0, 86400000,
     "Longest time of one attempt at one request, of every protocol."},
    {"Network", "RUNAI_STREAMER_S3_LOW_SPEED_LIMIT", kBytes, "1024", "bytes per second", 0, kMax,
     "A request slower than this for RUNAI_STREAMER_LOW_SPEED_SECONDS is cut and tried again, of every protocol."},
    {"Network", "RUNAI_STREAMER_LOW_SPEED_SECONDS", kInteger, "10", "seconds, 0: never cut", 0, 3600,
     "How long a request may be slower than RUNAI_STREAMER_S3_LOW_SPEED_LIMIT."},
    {"Network", "RUNAI_STREAMER_DEADLINE_SECONDS", kInteger, "none", "seconds, 0: none", 0, 604800,
     "Longest time of a whole load from object storage; then it fails with a timeout."},
    {"Network", "RUNAI_STREAMER_MAX_BANDWIDTH", kBytes, "none", "bytes per second, 0: no limit", 0, kMax,
     "Most bytes per second that this process takes from the network."},
    {"Network", "RUNAI_STREAMER_S3_TRACE", kBool, "0", kSwitch, 0, 0,
     "Write a log of requests, of every protocol and without secrets, to RUNAI_STREAMER_TRACE_FILE."},
    {"Network", "RUNAI_STREAMER_TRACE_FILE", kText, "runai_streamer_trace.PID.log in the working directory", "a path", 0, 0,
     "The file of the log of requests; naming it turns the log on."},
    {"Network", "SSL_CERT_FILE", kText, "the system's certificates", "a path", 0, 0,
     "PEM file of the authorities that servers are verified with."},
    {"Network", "SSL_CERT_DIR", kText, "the system's certificates", "a path", 0, 0,
     "Directory of hashed certificates of authorities."},
    {"Network", "HOME", kText, "", "a path", 0, 0,
     "Where configuration files of clouds are looked for."},
    {"S3", "RUNAI_STREAMER_S3_ENDPOINT", kText, "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's, AWS", "a URL", 0, 0,
     "Address of the S3 service."},
    {"S3", "AWS_ENDPOINT_URL_S3", kText, "AWS_ENDPOINT_URL", "a URL", 0, 0, "Address of the S3 service."},
    {"S3", "AWS_ENDPOINT_URL", kText, "AWS", "a URL", 0, 0, "Address of all AWS services."},
    {"S3", "AWS_ENDPOINT_URL_STS", kText, "AWS", "a URL", 0, 0, "Address of the STS service, for web identities."},
    {"S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", kBool, "0", kSwitch, 0, 0,
     "Pass over the endpoints of the profile."},
    {"S3", "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", kBool, "1, but 0 for IP addresses and localhost", kSwitch, 0, 0,
     "Put the bucket into the host name. Buckets with dots never are."},
    {"S3", "RUNAI_STREAMER_S3_UNSIGNED", kBool, "0", kSwitch, 0, 0, "Do not sign requests: for public buckets."},
    {"S3", "RUNAI_STREAMER_S3_REQUEST_PAYER", kBool, "0", kSwitch, 0, 0,
     "Agree to pay for requests to buckets where the requester pays."},
    {"S3", "RUNAI_STREAMER_NO_BOTO3_SESSION", kBool, "0", kSwitch, 0, 0,
     "Find credentials without boto3, also where it is installed."},
    {"S3", "AWS_REGION", kText, "the profile's, or us-east-1; the server's own answer is followed", "a region", 0, 0, "Region of the bucket."},
    {"S3", "AWS_DEFAULT_REGION", kText, "", "a region", 0, 0, "The same, after AWS_REGION."},
    {"S3", "AWS_ACCESS_KEY_ID", kText, "", "an access key", 0, 0, "The identity."},
    {"S3", "AWS_SECRET_ACCESS_KEY", kSecret, "", "a secret key", 0, 0, "Its secret."},
    {"S3", "AWS_SESSION_TOKEN", kSecret, "", "a token", 0, 0, "The token of temporary credentials."},
    {"S3", "AWS_PROFILE", kText, "default", "a profile", 0, 0, "Profile of the shared files."},
    {"S3", "AWS_DEFAULT_PROFILE", kText, "", "a profile", 0, 0, "The same, after AWS_PROFILE."},
    {"S3", "AWS_CONFIG_FILE", kText, "~/.aws/config", "a path", 0, 0, "Shared configuration file."},
    {"S3", "AWS_SHARED_CREDENTIALS_FILE", kText, "~/.aws/credentials", "a path", 0, 0, "Shared credentials file."},
    {"S3", "AWS_CA_BUNDLE", kText, "ca_bundle of the profile, SSL_CERT_FILE, the system's certificates", "a path", 0, 0,
     "PEM file of the authorities that S3 servers are verified with."},
    {"S3", "AWS_ROLE_ARN", kText, "", "an ARN", 0, 0, "Role that a web identity assumes."},
    {"S3", "AWS_ROLE_SESSION_NAME", kText, "", "a name", 0, 0, "Name of that session."},
    {"S3", "AWS_WEB_IDENTITY_TOKEN_FILE", kText, "", "a path", 0, 0, "File with the token of a web identity."},
    {"S3", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", kText, "", "a path of a URL", 0, 0, "Credentials of an ECS task."},
    {"S3", "AWS_CONTAINER_CREDENTIALS_FULL_URI", kText, "", "a URL", 0, 0, "Credentials of a container."},
    {"S3", "AWS_CONTAINER_AUTHORIZATION_TOKEN", kSecret, "", "a token", 0, 0, "What that endpoint asks for."},
    {"S3", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", kText, "", "a path", 0, 0, "File with what that endpoint asks for."},
    {"S3", "AWS_EC2_METADATA_DISABLED", kBool, "0", kSwitch, 0, 0, "Do not ask the EC2 instance metadata service."},
    {"S3", "AWS_EC2_METADATA_SERVICE_ENDPOINT", kText, "http://169.254.169.254", "a URL", 0, 0, "Address of that service."},
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

#include "source/http/http_source.h"

#include <algorithm>

#include "base/default_sizes.h"
#include "base/system.h"
#include "source/http/client/proxy.h"
#include "source/http/factory.h"
#include "source/http/http_reader.h"

namespace streamer {
namespace http {
namespace {

constexpr std::uint64_t kMostChunk = 32 << 20;
constexpr int kInitialConcurrency = 4;
constexpr int kMaxConcurrency = 1024;
constexpr int kDescriptors = 4;  // of one connection at most, if libcurl translates a host's name
constexpr int kOpenConcurrency = 64;
constexpr double kBytesOfGigabit = 1e9 / 8;

// The most that leave descriptors for the rest of the process.
int most_connections() {
  const std::uint64_t most = descriptor_limit() / 4 * 3 / kDescriptors;
  return static_cast<int>(std::clamp<std::uint64_t>(most, kInitialConcurrency, kMaxConcurrency));
}

}  // namespace

Result<HttpSourceSettings> HttpSourceSettings::read(const Settings& settings) {
  HttpSourceSettings out;
  const std::pair<const char*, bool*> switches[] = {
      {"RUNAI_STREAMER_ABORT_STRAGGLERS", &out.stragglers},
      {"RUNAI_STREAMER_HTTP_REQUIRE_VALIDATOR", &out.require_validator}};
  for (const auto& [name, value] : switches) {
    const auto set = settings.enabled(name);
    if (!set.ok()) return set.status();
    *value = *set;
  }
  const auto verify = settings.boolean("RUNAI_STREAMER_VERIFY_CHECKSUMS");
  if (!verify.ok()) return verify.status();
  if (*verify) out.verify = **verify ? Verify::kAll : Verify::kNone;
  const auto target = settings.integer("RUNAI_STREAMER_S3_TARGET_GBPS");
  if (!target) return target.status();
  out.target_rate = static_cast<double>(target->value_or(0)) * kBytesOfGigabit;
  return out;
}

HttpSource::HttpSource(SourceKind kind, std::unique_ptr<Protocol> protocol,
                       TransportSettings settings, const HttpSourceSettings& chosen,
                       const SourceContext& context)
    : kind_(kind),
      chosen_(chosen),
      transport_(std::move(settings), context.cancel),
      protocol_(std::move(protocol)),
      budget_(context.budget),
      retried_(context.options.retried) {
  traits_.remote = true;
  traits_.chunk_bytes = kObjectChunk;
  traits_.max_chunk_bytes = kMostChunk;
  traits_.min_chunk_bytes = kLeastObjectChunk;
  traits_.window_bytes = kObjectWindow;
  traits_.initial_concurrency = kInitialConcurrency;
  traits_.max_concurrency = most_connections();
  traits_.open_concurrency = kOpenConcurrency;
  traits_.refusals = refusals_;
  traits_.target_rate = chosen.target_rate;
  traits_.counted_by_reader = any_proxy_has_tls() ? 2 * kTlsBytes : kTlsBytes;
  traits_.reader_bytes = kPlainBytes + traits_.counted_by_reader;
  // Under a cap of bandwidth reads wait for one another, and not for their connections.
  traits_.stragglers = chosen.stragglers && transport_.settings.max_bandwidth == 0;
}

Status HttpSource::note_opened(const Location& location, const Version& version,
                               const Response& response) {
  if (version.validator.empty()) {
    if (chosen_.require_validator) {
      return Status::error(Code::kUnsupported,
                           "the server sends neither ETag nor Last-Modified: a change of the "
                           "object while it is read may stay unnoticed")
          .with_hint("RUNAI_STREAMER_HTTP_REQUIRE_VALIDATOR=1 refuses such servers");
    }
    snapshot_.unpinned(location.path);
  }
  snapshot_.opened(location.path, version, response);
  return {};
}

Result<std::unique_ptr<Reader>> HttpSource::make_reader() {
  return std::unique_ptr<Reader>(std::make_unique<HttpReader>(*this));
}

}  // namespace http

Result<std::unique_ptr<Source>> make_http_source(SourceKind kind, http::ProtocolMaker maker,
                                                 const SourceContext& context) {
  const Settings settings(context.options.source);
  Result<std::unique_ptr<http::Protocol>> protocol = maker({settings, context.options.credentials});
  if (!protocol.ok()) return protocol.status();
  Result<http::TransportSettings> transport =
      http::TransportSettings::read(settings, kind, (*protocol)->trust_file());
  if (!transport.ok()) return transport.status();
  const Result<http::HttpSourceSettings> chosen = http::HttpSourceSettings::read(settings);
  if (!chosen.ok()) return chosen.status();
  return std::unique_ptr<Source>(std::make_unique<http::HttpSource>(
      kind, std::move(*protocol), std::move(*transport), *chosen, context));
}

}  // namespace streamer

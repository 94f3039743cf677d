// The registry of the kinds of storage: one row of kRows adds one.
#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <string_view>

#include "base/text.h"
#include "source/file/file_source.h"
#include "source/source.h"
#include "streamer/types.h"
#include "text/url.h"
#ifdef STREAMER_OBJECT_STORAGE
#include "source/http/factory.h"
#include "source/http/protocol.h"
#include "text/encoding.h"
#endif

namespace streamer {
namespace {

constexpr std::size_t kMostSchemes = 5;

using Maker = Result<std::unique_ptr<Source>> (*)(const SourceContext&);

struct Row {
  SourceKind kind;
  const char* label;                                      // source_kind_name()
  std::array<std::string_view, kMostSchemes> schemes;     // in lower case; unused ones are empty
  Maker make;                                             // null: this build leaves the kind out
  std::string (*key)(const std::string& path) = nullptr;  // object_key(); null: after the container
  bool (*claims)(const std::string& path) = nullptr;      // true: it serves a URL of another row
  bool (*sign)(const std::string& container) = nullptr;   // settings_sign(); null: they never do
  // at_version(); null: an object has a version of its own.
  std::string (*at)(const std::string& path, const std::string& version) = nullptr;
  PathTraits traits = {};
};

std::string whole_path(const std::string& path) { return path; }

// BUCKET/KEY behind the scheme.
std::string after_container(const std::string& path) {
  const std::size_t slash = path.find('/', http::after_scheme(path));
  return slash == std::string::npos ? std::string() : path.substr(slash + 1);
}

#ifdef STREAMER_OBJECT_STORAGE

// The ARN of an access point has a slash.
std::string s3_key(const std::string& path) {
  std::string key = after_container(path);
  const std::string container = path.substr(0, path.size() - std::min(key.size() + 1, path.size()));
  if (!container.ends_with(":accesspoint")) return key;
  return key.substr(std::min(key.find('/'), key.size() - 1) + 1);
}

// URLs are percent-encoded, and may have a query.
std::string url_key(const std::string& url) {
  return http::percent_decode(after_container(url.substr(0, url.find('?'))));
}

bool is_https(const std::string& path) { return lower(path.substr(0, 6)) == "https:"; }

std::string azure_key(const std::string& path) {
  return is_https(path) ? url_key(path) : after_container(path);
}

bool is_azure_url(const std::string& path) {
  return is_https(path) && is_azure_path(path, Settings());
}

bool azure_sign(const std::string& container) { return azure_settings_sign(container, Settings()); }

template <SourceKind kind, http::ProtocolMaker maker>
Result<std::unique_ptr<Source>> over_http(const SourceContext& context) {
  return make_http_source(kind, maker, context);
}

#define STREAMER_REMOTE(kind, maker) &over_http<SourceKind::kind, &http::maker>
#define STREAMER_REMOTE_RULE(function) &(function)

#else

#define STREAMER_REMOTE(kind, maker) nullptr
#define STREAMER_REMOTE_RULE(function) nullptr

#endif

// clang-format off
constexpr Row kRows[] = {
    {SourceKind::kFile, "file", {}, &make_file_source, &whole_path},
    {SourceKind::kS3, "s3", {"s3", "s3a"}, STREAMER_REMOTE(kS3, make_s3), STREAMER_REMOTE_RULE(s3_key), nullptr, nullptr, nullptr, {.regions = true}},
    {SourceKind::kGcs, "gcs", {"gs", "gcs"}, STREAMER_REMOTE(kGcs, make_gcs)},
    {SourceKind::kAzure, "azure", {"az", "abfs", "abfss", "wasb", "wasbs"}, STREAMER_REMOTE(kAzure, make_azure), STREAMER_REMOTE_RULE(azure_key), STREAMER_REMOTE_RULE(is_azure_url), STREAMER_REMOTE_RULE(azure_sign)},
    {SourceKind::kHttp, "http", {"https", "http"}, STREAMER_REMOTE(kHttp, make_web), STREAMER_REMOTE_RULE(url_key), nullptr, nullptr, nullptr, {.url = true}},
    {SourceKind::kHub, "hub", {"hf"}, STREAMER_REMOTE(kHub, make_hub), STREAMER_REMOTE_RULE(hub_key), nullptr, nullptr, STREAMER_REMOTE_RULE(hub_at_version), {.lists_digests = true}},
};
// clang-format on

constexpr bool rows_are_in_order() {
  for (std::size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<std::size_t>(kRows[i].kind) != i) return false;
  }
  return std::size(kRows) == kSourceKinds;
}
static_assert(rows_are_in_order());

const Row& row_of(SourceKind kind) { return kRows[static_cast<int>(kind)]; }

std::string known_schemes() {
  std::string known = "a path of a file";
  for (const Row& row : kRows) {
    for (const std::string_view scheme : row.schemes) {
      if (!scheme.empty()) known.append(", ").append(scheme).append("://");
    }
  }
  return known;
}

// In lower case; none for a path of a file.
std::optional<std::string> scheme_of(const std::string& path) {
  const std::size_t colon = path.find("://");
  if (colon == std::string::npos || path.find('/') < colon) return std::nullopt;
  return lower(path.substr(0, colon));
}

bool has_scheme(const Row& row, const std::string& scheme) {
  return std::find(row.schemes.begin(), row.schemes.end(), scheme) != row.schemes.end() &&
         !scheme.empty();
}

}  // namespace

Result<SourceKind> source_kind_of(const std::string& path) {
  const std::optional<std::string> found = scheme_of(path);
  if (!found) return SourceKind::kFile;
  const std::string& scheme = *found;
  for (const Row& row : kRows) {
    if (row.claims != nullptr && row.claims(path)) return row.kind;
    if (has_scheme(row, scheme)) return row.kind;
  }
  return Status::error(Code::kInvalid, "unknown scheme '" + scheme + "://'")
      .with_path(path)
      .with_hint("Known: " + known_schemes());
}

const char* source_kind_name(SourceKind kind) noexcept {
  const int index = static_cast<int>(kind);
  return index >= 0 && index < kSourceKinds ? row_of(kind).label : "unknown";
}

std::string object_key(const std::string& path) {
  const Result<SourceKind> kind = source_kind_of(path);
  if (!kind.ok() || row_of(*kind).key == nullptr) return after_container(path);
  return row_of(*kind).key(path);
}

PathTraits path_traits(const std::string& path) {
  const std::optional<std::string> scheme = scheme_of(path);
  const Row* const row = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& one) {
    return scheme && has_scheme(one, *scheme);
  });
  return row == std::end(kRows) ? PathTraits() : row->traits;
}

std::string at_version(const std::string& path, const std::string& version) {
  const Result<SourceKind> kind = source_kind_of(path);
  if (!kind.ok() || row_of(*kind).at == nullptr || version.empty()) return path;
  return row_of(*kind).at(path, version);
}

bool settings_sign(SourceKind kind, const std::string& container) {
  const auto sign = row_of(kind).sign;
  return sign != nullptr && sign(container);
}

Result<std::unique_ptr<Source>> make_source(SourceKind kind, const SourceContext& context) {
  if (const Maker make = row_of(kind).make; make != nullptr) return make(context);
  return Status::error(Code::kUnsupported,
                       std::string("this build has no support for ") + source_kind_name(kind))
      .with_hint("Build with -DSTREAMER_OBJECT_STORAGE=ON (needs libcurl and OpenSSL)");
}

}  // namespace streamer

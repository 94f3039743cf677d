#include "base/settings.h"
#include "base/text.h"
#include "source/http/factory.h"
#include "streamer/types.h"

namespace streamer {
namespace {

bool is_azure_blob([[maybe_unused]] const std::string& path) {
#ifdef STREAMER_OBJECT_STORAGE
  return is_azure_path(path, Settings());
#else
  return false;
#endif
}

}  // namespace

Result<SourceKind> source_kind_of(const std::string& path) {
  const std::size_t colon = path.find("://");
  if (colon == std::string::npos || path.find('/') < colon) return SourceKind::kFile;
  const std::string scheme = lower(path.substr(0, colon));
  if (scheme == "s3") return SourceKind::kS3;
  if (scheme == "gs") return SourceKind::kGcs;
  if (scheme == "az") return SourceKind::kAzure;
  if (scheme == "https" && is_azure_blob(path)) return SourceKind::kAzure;
  if (scheme == "http" || scheme == "https") return SourceKind::kHttp;
  if (scheme == "hf") return SourceKind::kHub;
  return Status::error(Code::kInvalid, "unknown scheme '" + scheme + "://'")
      .with_path(path)
      .with_hint("Known: a path of a file, s3://, gs://, az://, https://, http://, hf://");
}

const char* source_kind_name(SourceKind kind) noexcept {
  switch (kind) {
    case SourceKind::kFile: return "file";
    case SourceKind::kS3: return "s3";
    case SourceKind::kGcs: return "gcs";
    case SourceKind::kAzure: return "azure";
    case SourceKind::kHttp: return "http";
    case SourceKind::kHub: return "hub";
  }
  return "unknown";
}

}  // namespace streamer

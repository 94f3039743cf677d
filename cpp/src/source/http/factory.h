// Sources that are reached over HTTP. Absent from builds without STREAMER_OBJECT_STORAGE.
#pragma once

#include <memory>
#include <string>

#include "base/settings.h"
#include "source/source.h"

namespace streamer {
namespace http {

class Protocol;
struct ProtocolContext;
using ProtocolMaker = Result<std::unique_ptr<Protocol>> (*)(const ProtocolContext&);

}  // namespace http

Result<std::unique_ptr<Source>> make_http_source(SourceKind kind, http::ProtocolMaker maker,
                                                 const SourceContext& context);

// object_key() of a path of the hub: the name in the repository.
std::string hub_key(const std::string& path);

// at_version() of a path of the hub: `commit` in the place of its revision.
std::string hub_at_version(const std::string& path, const std::string& commit);

// True if `path` is the https:// URL of a blob, without a query: in Azure Blob Storage, or at the
// endpoint that the settings name.
bool is_azure_path(const std::string& path, const Settings& settings);

// True if the settings hold a key or a signature for `container` (CredentialsRequest::container).
bool azure_settings_sign(const std::string& container, const Settings& settings);

}  // namespace streamer

// The model hub: it redirects to where files are stored.
#include <map>
#include <mutex>
#include <optional>

#include "source/http/client/origin.h"
#include "source/http/hub/hub.h"
#include "source/http/protocol.h"
#include "source/http/redirects.h"

namespace streamer::http {
namespace {

class Hub : public SingleIdentity {
 public:
  Hub(const ProtocolContext& context, std::string endpoint, bool offline,
      std::uint64_t whole_read_limit)
      : SingleIdentity(SourceKind::kHub, context.provider, /*anonymous=*/false,
                       [settings = context.settings](const std::string&, Connection&) {
                         return find_hub_token(settings);
                       }),
        endpoint_(std::move(endpoint)),
        offline_(offline),
        whole_read_limit_(whole_read_limit) {}

  Result<Location> locate(const std::string& path, bool directory) const override;
  Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                            const std::string& version, const CredentialsRef& credentials) override;
  Result<Request> make_list(const Location& directory, bool recursive, const std::string& next,
                            const CredentialsRef& credentials) override;
  Result<ListPage> read_list(const Location& /*directory*/, bool /*recursive*/,
                             const std::string& /*next*/, const Response& response) override {
    return read_hub_tree(response);
  }
  bool is_empty_list(const Response& response) const override {
    return response.status == 404 && response.header("x-error-code") == "EntryNotFound";
  }
  std::string version_of(const Response& response) const override { return validator_of(response); }
  ServerError read_error(const Location& location, const Response& response) override;
  std::uint64_t whole_read_limit() const override { return whole_read_limit_; }

 private:
  Result<std::string> address(const Location& location) const;
  bool pin_commit(const Location& location, const std::string& commit);

  const std::string endpoint_;
  const bool offline_;
  const std::uint64_t whole_read_limit_;
  Redirects redirects_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> commits_;  // of repositories at a revision
};

Result<Location> Hub::locate(const std::string& path, bool directory) const {
  Result<HubPath> parsed = parse_hub_path(path);
  if (!parsed.ok()) return parsed.status();
  if (offline_) {
    return Status::error(Code::kNotFound, "the local cache of the hub has no copy")
        .with_path(path)
        .with_hint("HF_HUB_OFFLINE=1 forbids to ask the hub");
  }
  if (!directory && (parsed->file.empty() || parsed->file.ends_with('/'))) {
    return Status::error(Code::kInvalid, "the path names no file of the repository")
        .with_path(path);
  }
  if (directory && !parsed->file.empty() && !parsed->file.ends_with('/')) parsed->file += '/';
  return Location{path, "hf://" + parsed->type + "/" + parsed->repo + "@" + parsed->revision,
                  parsed->file};
}

Result<std::string> Hub::address(const Location& location) const {
  Result<HubPath> path = parse_hub_path(location.path);
  if (!path.ok()) return path.status();
  const std::lock_guard lock(mutex_);
  const auto commit = commits_.find(path->repo + "@" + path->revision);
  if (commit != commits_.end()) path->revision = commit->second;
  return hub_file_url(endpoint_, *path);
}

Result<Request> Hub::make_read(const Location& location, std::optional<ByteRange> range,
                               const std::string& version, const CredentialsRef& credentials) {
  Result<std::string> asked = address(location);
  if (!asked.ok()) return asked.status();
  Request request = redirects_.request(*asked, credentials);
  if (range) request.set("Range", range->header());
  // The hub's own ETag differs from that of where it sends us.
  if (!same_origin(request.url, endpoint_)) require_unchanged(&request, version);
  return request;
}

Result<Request> Hub::make_list(const Location& directory, bool recursive, const std::string& next,
                               const CredentialsRef& credentials) {
  Result<HubPath> path = parse_hub_path(directory.path);
  if (!path.ok()) return path.status();
  if (!next.empty() && !same_origin(next, endpoint_)) {
    return Status::error(Code::kIo, "the next page of the list is at another host");
  }
  return redirects_.request(next.empty() ? hub_tree_url(endpoint_, *path, recursive) : next,
                            credentials);
}

// False where another commit is known already.
bool Hub::pin_commit(const Location& location, const std::string& commit) {
  const Result<HubPath> path = parse_hub_path(location.path);
  const std::lock_guard lock(mutex_);
  return commits_.try_emplace(path->repo + "@" + path->revision, commit).first->second == commit;
}

ServerError Hub::read_error(const Location& location, const Response& response) {
  ServerError error = error_by_status(response.status);
  error.request_id = response.header("x-request-id");
  error.server_code = response.header("x-error-code");
  error.server_message = response.header("x-error-message");
  std::string requested = response.url;
  const std::string commit(response.header("x-repo-commit"));
  const bool redirect = response.status >= 300 && response.status <= 399;
  if (redirect && !commit.empty() && same_origin(response.url, endpoint_)) {
    // All files of a load come from the commit that the first one came from.
    if (!pin_commit(location, commit)) {
      error.decision = RetryDecision::kAgain;
      return error;
    }
    requested = *address(location);
  }
  if (redirects_.handle(requested, response, &error)) return error;
  if (response.status == 401) {
    error.decision = RetryDecision::kRefresh;
    error.hint = "The repository does not exist, or is private or gated: set HF_TOKEN";
  } else if (response.status == 403) {
    error.hint = "Access to this repository must be granted to the owner of the token";
  } else if (response.status == 410) {
    error.code = Code::kNotFound;
  }
  return error;
}

}  // namespace

Result<std::unique_ptr<Protocol>> make_hub(const ProtocolContext& context) {
  Result<std::string> endpoint = hub_endpoint(context.settings);
  if (!endpoint.ok()) return endpoint.status();
  const Result<std::uint64_t> limit = read_whole_read_limit(context.settings);
  if (!limit.ok()) return limit.status();
  const auto offline = context.settings.boolean("HF_HUB_OFFLINE");
  if (!offline.ok()) return offline.status();
  return std::unique_ptr<Protocol>(
      std::make_unique<Hub>(context, std::move(*endpoint), offline->value_or(false), *limit));
}

}  // namespace streamer::http

// The model hub: it redirects to the storage of files.
#include <map>
#include <optional>

#include "base/mutex.h"
#include "source/http/client/origin.h"
#include "source/http/hub/hub.h"
#include "source/http/protocol.h"
#include "source/http/redirects.h"
#include "text/json.h"

namespace streamer::http {
namespace {

constexpr int kCommitTimeoutMs = 10'000;

class Hub : public SingleIdentity {
 public:
  Hub(const ProtocolContext& context, std::string endpoint, bool offline,
      std::uint64_t whole_read_limit)
      : SingleIdentity(SourceKind::kHub, context.provider, /*anonymous=*/false,
                       [settings = context.settings](const std::string&, Connection&) {
                         return find_hub_token(settings);
                       }),
        settings_(context.settings),
        endpoint_(std::move(endpoint)),
        offline_(offline),
        whole_read_limit_(whole_read_limit) {}

  Result<Location> locate(const std::string& path, bool directory) const override;
  Endpoint endpoint(const Location&, const Credentials*) const override {
    const bool named = settings_.text("HF_ENDPOINT").has_value();
    return {.url = endpoint_, .from = named ? "HF_ENDPOINT" : "of the hub"};
  }
  Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                            const Version& version, const CredentialsRef& credentials) override;
  Result<std::string> local_copy(const std::string& path, bool directory,
                                 Connection& connection) override;
  Status prepare_list(const Location& directory, const CredentialsRef& credentials,
                      Connection& connection) override;
  // A list tells the commit that its files are of.
  Version listed_version(const Location& location, const std::string& listed) override {
    if (!listed.empty()) pin_commit(location, listed);
    return {};
  }
  bool same_snapshot(const Location& location, const Response& response) override;
  Result<Request> make_list(const Location& directory, bool recursive, const std::string& next,
                            const CredentialsRef& credentials) override;
  Result<ListPage> read_list(const Location& directory, bool recursive, const std::string& next,
                             const Response& response) override;
  bool is_empty_list(const Response& response) const override {
    return response.status == 404 && response.header("x-error-code") == "EntryNotFound";
  }
  Version version_of(const Response& response) const override {
    return {validator_of(response), "", false};
  }
  ServerError read_error(const Location& location, const Response& response) override;
  std::uint64_t whole_read_limit() const override { return whole_read_limit_; }

 private:
  Result<std::string> address(const Location& location) const;
  bool pin_commit(const Location& location, const std::string& commit) EXCLUDES(mutex_);
  std::string pinned_commit(const HubPath& path) const EXCLUDES(mutex_);
  Result<std::string> ask_commit(const HubPath& path, const Location& location,
                                 Connection& connection);

  const Settings settings_;
  const std::string endpoint_;
  const bool offline_;
  const std::uint64_t whole_read_limit_;
  Redirects redirects_;
  mutable Mutex mutex_;
  // Of repositories at a revision: everything that a load reads or lists is of one commit.
  std::map<std::string, std::string> commits_ GUARDED_BY(mutex_);
  Mutex asking_;  // held while the hub is asked for a commit
};

std::string key_of(const HubPath& path) {
  return path.type + "/" + path.repo + "@" + path.revision;
}

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
  if (std::string commit = pinned_commit(*path); !commit.empty()) {
    path->revision = std::move(commit);
  }
  return hub_file_url(endpoint_, *path);
}

Result<Request> Hub::make_read(const Location& location, std::optional<ByteRange> range,
                               const Version& version, const CredentialsRef& credentials) {
  Result<std::string> asked = address(location);
  if (!asked.ok()) return asked.status();
  Request request = redirects_.request(*asked, credentials);
  if (range) request.set("Range", range->header());
  // The hub's own ETag differs from that of the server that it redirects to.
  if (!same_origin(request.url, endpoint_)) require_unchanged(&request, version.validator);
  return request;
}

Result<Request> Hub::make_list(const Location& directory, bool recursive, const std::string& next,
                               const CredentialsRef& credentials) {
  Result<HubPath> path = parse_hub_path(directory.path);
  if (!path.ok()) return path.status();
  if (std::string commit = pinned_commit(*path); !commit.empty()) {
    path->revision = std::move(commit);
  }
  if (!next.empty() && !same_origin(next, endpoint_)) {
    return Status::error(Code::kIo, "the next page of the list is at another host");
  }
  return redirects_.request(next.empty() ? hub_tree_url(endpoint_, *path, recursive) : next,
                            credentials);
}

// False if another commit is known already.
bool Hub::pin_commit(const Location& location, const std::string& commit) {
  const Result<HubPath> path = parse_hub_path(location.path);
  const MutexLock lock(mutex_);
  return commits_.try_emplace(key_of(*path), commit).first->second == commit;
}

// Empty if it is not known yet.
std::string Hub::pinned_commit(const HubPath& path) const {
  if (is_commit(path.revision)) return path.revision;
  const MutexLock lock(mutex_);
  const auto commit = commits_.find(key_of(path));
  return commit == commits_.end() ? std::string() : commit->second;
}

bool Hub::same_snapshot(const Location& location, const Response& response) {
  const std::string commit(response.header("x-repo-commit"));
  if (commit.empty() || !same_origin(response.url, endpoint_)) return true;
  return pin_commit(location, commit);
}

// The commit that a revision is at, by the header that the hub sends with each file. Empty if the
// hub is out of reach or does not send it.
Result<std::string> Hub::ask_commit(const HubPath& path, const Location& location,
                                    Connection& connection) {
  Result<CredentialsRef> who = credentials(location, connection);
  if (!who.ok()) return who.status();
  Request request = redirects_.request(hub_file_url(endpoint_, path), *who);
  request.method = "HEAD";
  request.timeout_ms = kCommitTimeoutMs;
  Result<Response> response = connection.fetch(request, Persistence::kProbe);
  if (!response.ok()) {
    if (response.status().code() == Code::kCancelled) return response.status();
    return std::string();
  }
  const std::string commit(response->header("x-repo-commit"));
  return commit.find('/') == std::string::npos ? commit : std::string();
}

// A copy is used only if it is of the commit that the revision is at, or if the hub does not send
// it. Then all files of the load are of the commit that the cache has, too.
Result<std::string> Hub::local_copy(const std::string& path, bool directory,
                                    Connection& connection) {
  const Result<HubPath> parsed = parse_hub_path(path);
  if (!parsed.ok()) return path;  // locate() returns the error
  const HubCache cache(settings_, *parsed);
  const std::string cached = cache.commit(parsed->revision);
  // A directory of the cache may lack files: only the hub can list it.
  if (!offline_ && (directory || !cache.find(cached, parsed->file))) return path;
  const MutexLock lock(asking_);
  std::string commit = pinned_commit(*parsed);
  if (commit.empty()) {
    const Location location{path, endpoint_, parsed->file};
    if (!offline_) {
      Result<std::string> told = ask_commit(*parsed, location, connection);
      if (!told.ok()) return told.status();
      commit = std::move(*told);
    }
    pin_commit(location, commit.empty() ? cached : commit);
    commit = pinned_commit(*parsed);
  }
  return cache.find(commit, parsed->file).value_or(path);
}

Status Hub::prepare_list(const Location& directory, const CredentialsRef& credentials,
                         Connection& connection) {
  const Result<HubPath> path = parse_hub_path(directory.path);
  if (!path.ok()) return path.status();
  const MutexLock lock(asking_);
  if (!pinned_commit(*path).empty()) return {};
  const std::string url = hub_revision_url(endpoint_, *path);
  ServerError moved;
  Result<Response> response = connection.fetch(redirects_.request(url, credentials));
  if (response.ok() && redirects_.handle(url, *response, &moved) &&
      moved.decision != RetryDecision::kFail) {
    response = connection.fetch(redirects_.request(url, credentials));
  }
  if (!response.ok()) return response.status();
  // The list reports errors of the repository.
  const std::optional<Json> json = parse_json(response->body);
  const std::string commit = json ? json->string("sha") : std::string();
  if (response->status == 200 && is_commit(commit)) pin_commit(directory, commit);
  return {};
}

Result<ListPage> Hub::read_list(const Location& directory, bool /*recursive*/,
                                const std::string& /*next*/, const Response& response) {
  Result<ListPage> page = read_hub_tree(response);
  const Result<HubPath> path = parse_hub_path(directory.path);
  if (!page.ok() || !path.ok()) return page;
  const std::string commit = pinned_commit(*path);
  for (ListPage::Entry& entry : page->entries) entry.version = commit;
  return page;
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
      error.decision = RetryDecision::kFollow;
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
  const auto offline = context.settings.enabled("HF_HUB_OFFLINE");
  if (!offline.ok()) return offline.status();
  return std::unique_ptr<Protocol>(
      std::make_unique<Hub>(context, std::move(*endpoint), *offline, *limit));
}

}  // namespace streamer::http

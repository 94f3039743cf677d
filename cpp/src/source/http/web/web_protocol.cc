// Plain https and http servers, and the model hub on top of them.
#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>

#include "source/http/credentials_cache.h"
#include "source/http/encoding.h"
#include "source/http/oauth.h"
#include "source/http/protocol.h"
#include "source/http/url.h"
#include "source/http/web/hub.h"
#include "source/http/web/netrc.h"
#include "source/http/web/web_list.h"

namespace streamer::http {
namespace {

constexpr const char* kAuthorization = "authorization";  // in Credentials::values
constexpr std::uint64_t kWholeReadLimit = 64 << 20;
constexpr int kMaxRedirects = 5;
constexpr std::chrono::seconds kRefusedAgain{5};
constexpr int kMaxFolderDepth = 16;

std::string origin_of(const std::string& url) {
  return url.substr(0, url.find_first_of("/?", std::min(url.find("://") + 3, url.size())));
}

// People paste addresses with spaces and letters of their language.
std::string encode_unsafe(const std::string& url) {
  return percent_encode(url, "%:/?#[]@!$&'()*+,;=");
}

// A query that is a signature by itself: servers refuse a second way to authenticate.
bool is_presigned(const std::string& url) {
  const std::string query = lower(url.substr(std::min(url.find('?'), url.size())));
  for (const char* name : {"x-amz-signature=", "x-goog-signature=", "signature=", "sig="}) {
    const std::size_t at = query.find(name);
    if (at != std::string::npos && (query[at - 1] == '?' || query[at - 1] == '&')) return true;
  }
  return false;
}

std::string resolve_link(const Url& base, const std::string& link) {
  if (link.find("://") != std::string::npos) return link;
  if (link.starts_with("//")) return base.scheme + ":" + link;
  if (link.starts_with('/')) return base.origin() + link;
  return base.origin() + base.path.substr(0, base.path.rfind('/') + 1) + link;
}

Result<Credentials> find_web_credentials(const Settings& settings, const std::string& origin) {
  Credentials credentials;
  if (const auto value = settings.text("RUNAI_STREAMER_HTTP_AUTHORIZATION")) {
    credentials.values[kAuthorization] = *value;
    credentials.identity = "RUNAI_STREAMER_HTTP_AUTHORIZATION";
    return credentials;
  }
  const std::string file =
      settings.text("NETRC").value_or(settings.text("HOME").value_or("") + "/.netrc");
  const Result<std::string> text = read_credential_file(file, "the passwords of");
  const Result<Url> url = parse_url(origin);
  if (text.ok() && url.ok()) {
    if (const auto entry = find_in_netrc(*text, url->host)) {
      credentials.values[kAuthorization] = "Basic " + base64(entry->login + ":" + entry->password);
      credentials.identity = "user " + entry->login + " of " + file;
      return credentials;
    }
  }
  credentials.identity = "nobody";
  return credentials;
}

class Web : public Protocol {
 public:
  Web(const ProtocolContext& context, std::string hub, bool offline, std::uint64_t whole_read_limit)
      : hub_(std::move(hub)),
        offline_(offline),
        whole_read_limit_(whole_read_limit),
        credentials_(SourceKind::kHttp, context.provider,
                     [settings = context.settings](const std::string& container, Connection&) {
                       return is_hub_path(container) ? find_hub_token(settings)
                                                     : find_web_credentials(settings, container);
                     }) {}

  Result<Location> locate(const std::string& path, bool folder) const override;
  Result<CredentialsRef> credentials(const Location& location, Connection& connection) override {
    return credentials_.get(location.container, connection);
  }
  void refused(const Location& location, const CredentialsRef& used) override {
    credentials_.refused(location.container, used);
  }
  Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                            const std::string& version, const CredentialsRef& credentials) override;
  Result<Request> make_list(const Location& folder, bool recursive, const std::string& next,
                            const CredentialsRef& credentials) override;
  Result<ListPage> read_list(const Location& folder, bool recursive, const std::string& next,
                             const Response& response) override;
  std::string version_of(const Response& response) const override {
    const std::string_view etag = response.header("etag");
    return std::string(etag.empty() ? response.header("last-modified") : etag);
  }
  ServerError read_error(const Location& location, const Response& response) override;
  std::uint64_t whole_read_limit() const override { return whole_read_limit_; }

 private:
  using Clock = std::chrono::steady_clock;
  // Where a server has sent us, by the address that was asked for.
  struct Redirect {
    std::string target;  // empty: forgotten
    int hops = 0;
    Clock::time_point forgotten{};
  };
  Result<std::string> address(const Location& location) const;
  Request request_for(const std::string& asked, const CredentialsRef& credentials) const;
  ServerError follow(const std::string& requested, const Response& response, ServerError error);
  bool forget(const std::string& target);
  bool pin_commit(const Location& location, const std::string& commit);

  const std::string hub_;
  const bool offline_;  // from the hub
  const std::uint64_t whole_read_limit_;
  CredentialsCache credentials_;
  mutable std::mutex mutex_;
  std::map<std::string, Redirect> redirects_;
  std::map<std::string, std::string> origins_;  // of targets: the address that was asked for
  std::map<std::string, std::string> commits_;  // of repositories at a revision
};

Result<Location> Web::locate(const std::string& path, bool folder) const {
  if (is_hub_path(path)) {
    Result<HubPath> parsed = parse_hub_path(path);
    if (!parsed.ok()) return parsed.status();
    if (offline_) {
      return Status::error(Code::kNotFound, "the local cache of the hub has no copy")
          .with_path(path)
          .with_hint("HF_HUB_OFFLINE=1 forbids to ask the hub");
    }
    if (!folder && (parsed->file.empty() || parsed->file.ends_with('/'))) {
      return Status::error(Code::kInvalid, "the path names no file of the repository")
          .with_path(path);
    }
    if (folder && !parsed->file.empty() && !parsed->file.ends_with('/')) parsed->file += '/';
    return Location{path, "hf://" + parsed->type + "/" + parsed->repo + "@" + parsed->revision,
                    parsed->file};
  }
  Result<Url> url = parse_url(encode_unsafe(path));
  if (!url.ok()) {
    return url.status().with_path(path).with_hint(
        "User names and passwords belong into ~/.netrc or RUNAI_STREAMER_HTTP_AUTHORIZATION");
  }
  std::string key = url->path.empty() ? "/" : url->path;
  const bool file = key.ends_with(".json") || key.ends_with(".safetensors");
  if (folder && !file && !key.ends_with('/')) key += '/';
  if (!url->query.empty()) key += "?" + url->query;
  return Location{path, url->origin(), std::move(key)};
}

Result<std::string> Web::address(const Location& location) const {
  if (!is_hub_path(location.path)) return location.container + location.key;
  Result<HubPath> path = parse_hub_path(location.path);
  if (!path.ok()) return path.status();
  const std::lock_guard lock(mutex_);
  const auto commit = commits_.find(path->repo + "@" + path->revision);
  if (commit != commits_.end()) path->revision = commit->second;
  return hub_file_url(hub_, *path);
}

Request Web::request_for(const std::string& asked, const CredentialsRef& credentials) const {
  Request request{.url = asked};
  {
    const std::lock_guard lock(mutex_);
    const auto it = redirects_.find(asked);
    if (it != redirects_.end() && !it->second.target.empty()) request.url = it->second.target;
  }
  // Whoever we are sent to does not learn who asks.
  if (credentials && origin_of(request.url) == origin_of(asked) && !is_presigned(request.url)) {
    const auto& values = credentials->values;
    if (const auto it = values.find(kAuthorization); it != values.end()) {
      request.set("Authorization", it->second);
    } else if (const auto token = values.find(kToken); token != values.end()) {
      request.set("Authorization", "Bearer " + token->second);
    }
  }
  return request;
}

Result<Request> Web::make_read(const Location& location, std::optional<ByteRange> range,
                               const std::string& version, const CredentialsRef& credentials) {
  Result<std::string> asked = address(location);
  if (!asked.ok()) return asked.status();
  Request request = request_for(*asked, credentials);
  if (range) request.set("Range", range->header());
  // A weak ETag never matches, and the hub's own differs from that of where it sends us; versions
  // are compared with those of answers all the same.
  if (origin_of(request.url) == origin_of(hub_)) return request;
  if (version.starts_with('"')) {
    request.set("If-Match", version);
  } else if (parse_http_date(version)) {
    request.set("If-Unmodified-Since", version);
  }
  return request;
}

Result<Request> Web::make_list(const Location& folder, bool recursive, const std::string& next,
                               const CredentialsRef& credentials) {
  if (!is_hub_path(folder.path)) {
    Request request =
        request_for(next.empty() ? folder.container + folder.key : next.substr(0, next.find('\n')),
                    credentials);
    // A listed file is there by being named; one byte of it tells its size.
    if (next.empty() && folder.key.substr(0, folder.key.find('?')).ends_with(".safetensors")) {
      request.set("Range", "bytes=0-0");
    }
    return request;
  }
  Result<HubPath> path = parse_hub_path(folder.path);
  if (!path.ok()) return path.status();
  if (!next.empty() && origin_of(next) != origin_of(hub_)) {
    return Status::error(Code::kIo, "the next page of the list is at another host");
  }
  return request_for(next.empty() ? hub_tree_url(hub_, *path, recursive) : next, credentials);
}

// Paths of what is listed begin as the caller wrote the folder, not as it was encoded.
void restore_base(const Location& folder, ListPage* page) {
  const auto base_of = [](const std::string& address) {
    const std::string plain = address.substr(0, address.find('?'));
    return plain.ends_with(".json") ? plain.substr(0, plain.rfind('/')) : plain;
  };
  std::string given = base_of(folder.path);
  std::string asked = base_of(folder.container + folder.key);
  while (given.ends_with('/')) given.pop_back();
  while (asked.ends_with('/')) asked.pop_back();
  for (ListPage::Entry& entry : page->entries) {
    if (entry.path.starts_with(asked)) entry.path.replace(0, asked.size(), given);
  }
}

Result<ListPage> Web::read_list(const Location& folder, bool recursive, const std::string& next,
                                const Response& response) {
  if (is_hub_path(folder.path)) return read_hub_tree(response);
  const std::string asked = folder.container + folder.key;
  const std::string plain = folder.key.substr(0, folder.key.find('?'));
  if (plain.ends_with(".json")) {
    Result<ListPage> index = read_checkpoint_index(asked, response.body);
    if (index.ok()) restore_base(folder, &*index);
    return index;
  }
  if (plain.ends_with(".safetensors")) {
    const std::string_view range = response.header("content-range");
    const std::string size(range.substr(std::min(range.find('/') + 1, range.size())));
    ListPage page;
    page.entries.push_back({"", std::strtoull(size.c_str(), nullptr, 10), folder.path});
    return page;
  }
  // Pages of folders: `next` is a list of those that are still to be read.
  std::istringstream pending(next.empty() ? asked : next);
  std::string current;
  std::getline(pending, current);
  std::vector<std::string> folders;
  Result<ListPage> page = read_folder_page(current, response, &folders);
  if (page.ok()) restore_base(folder, &*page);
  if (!page.ok() || !recursive) return page;
  for (std::string line; std::getline(pending, line);) page->next += line + "\n";
  for (const std::string& below : folders) {
    if (std::count(below.begin() + static_cast<std::ptrdiff_t>(asked.size()), below.end(), '/') <=
        kMaxFolderDepth) {
      page->next += below + "\n";
    }
  }
  return page;
}

// A redirect: remembers it, so that later ranges go there at once.
// `requested` is what later requests for the same thing will ask for.
ServerError Web::follow(const std::string& requested, const Response& response, ServerError error) {
  const Result<Url> base = parse_url(response.url);
  const std::string link = encode_unsafe(std::string(response.header("location")));
  const Result<Url> target = base.ok() ? parse_url(resolve_link(*base, link)) : base;
  if (!target.ok()) {
    error.message = "the server redirects to an address that makes no sense";
    return error;
  }
  if (base->scheme == "https" && target->scheme == "http") {
    error.message = "the server redirects from https to plain http, which is not followed";
    return error;
  }
  const std::lock_guard lock(mutex_);
  const auto it = origins_.find(response.url);
  const std::string asked = it == origins_.end() ? requested : it->second;
  Redirect& redirect = redirects_[asked];
  const bool stale = it != origins_.end() && redirect.target != response.url;
  if (!stale) {
    redirect.hops = it == origins_.end() ? 1 : redirect.hops + 1;
    if (redirect.hops > kMaxRedirects) {
      error.message = "the server redirects in circles";
      return error;
    }
    redirect.target = target->to_string();
    if (redirect.target == asked) {
      error.message = "the server redirects in circles";
      redirect.target.clear();
      return error;
    }
    origins_[redirect.target] = asked;
  }
  error.verdict = Verdict::kAgain;
  return error;
}

// The address we were sent to refuses: its signature may have expired. False where that has just
// been tried.
bool Web::forget(const std::string& target) {
  const std::lock_guard lock(mutex_);
  const auto it = origins_.find(target);
  if (it == origins_.end()) return false;
  Redirect& redirect = redirects_[it->second];
  if (redirect.target != target) return true;  // another thread was quicker
  const Clock::time_point now = Clock::now();
  const bool again =
      redirect.forgotten != Clock::time_point{} && now - redirect.forgotten < kRefusedAgain;
  redirect.target.clear();
  redirect.forgotten = now;
  return !again;
}

// False where another commit is known already.
bool Web::pin_commit(const Location& location, const std::string& commit) {
  const Result<HubPath> path = parse_hub_path(location.path);
  const std::lock_guard lock(mutex_);
  return commits_.try_emplace(path->repo + "@" + path->revision, commit).first->second == commit;
}

ServerError Web::read_error(const Location& location, const Response& response) {
  ServerError error = error_by_status(response.status);
  error.request_id = response.header("x-request-id");
  error.server_code = response.header("x-error-code");
  error.server_message = response.header("x-error-message");
  const bool hub = is_hub_path(location.path);
  std::string requested = response.url;
  if (response.status >= 300 && response.status <= 399 && response.status != 304) {
    const std::string commit(response.header("x-repo-commit"));
    if (hub && !commit.empty() && origin_of(response.url) == origin_of(hub_)) {
      // All files of a load come from the commit that the first one came from.
      if (!pin_commit(location, commit)) {
        error.verdict = Verdict::kAgain;
        return error;
      }
      requested = *address(location);
    }
    return follow(requested, response, std::move(error));
  }
  const bool refused = response.status == 401 || response.status == 403 || response.status == 404 ||
                       response.status == 410;
  if (refused && forget(response.url)) {
    error.verdict = Verdict::kAgain;
    return error;
  }
  if (response.status == 401) {
    error.verdict = Verdict::kRefresh;
    error.hint = hub ? "The repository does not exist, or is private or gated: set HF_TOKEN"
                     : "Set RUNAI_STREAMER_HTTP_AUTHORIZATION or an entry of ~/.netrc";
  } else if (response.status == 403) {
    error.hint = hub ? "Access to this repository must be granted to the owner of the token"
                     : "A presigned address may have expired";
  } else if (response.status == 410) {
    error.code = Code::kNotFound;
  }
  return error;
}

}  // namespace

Result<std::unique_ptr<Protocol>> make_web(const ProtocolContext& context) {
  Result<std::string> hub = hub_endpoint(context.settings);
  if (!hub.ok()) return hub.status();
  const auto limit = context.settings.integer("RUNAI_STREAMER_HTTP_WHOLE_READ_LIMIT");
  if (!limit.ok()) return limit.status();
  const auto offline = context.settings.boolean("HF_HUB_OFFLINE");
  if (!offline.ok()) return offline.status();
  return std::unique_ptr<Protocol>(std::make_unique<Web>(
      context, std::move(*hub), offline->value_or(false),
      static_cast<std::uint64_t>(limit->value_or(static_cast<std::int64_t>(kWholeReadLimit)))));
}

}  // namespace streamer::http

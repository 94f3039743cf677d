// Plain https and http servers.
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "source/http/auth/oauth.h"
#include "source/http/protocol.h"
#include "source/http/redirects.h"
#include "source/http/web/netrc.h"
#include "source/http/web/web_list.h"
#include "text/encoding.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr int kMaxDirectoryDepth = 16;
constexpr std::ptrdiff_t kMaxPending = 10'000;  // directories
constexpr std::size_t kIndexLimit = 64 << 20;

// ListPage::next of a recursive list: the directories that are still to be read, one a line, each
// with its depth below the first.
struct Pending {
  int depth = 0;
  std::string url;
};

Pending parse_pending(std::string_view line) {
  Pending pending;
  const std::size_t space = std::min(line.find(' '), line.size());
  std::from_chars(line.data(), line.data() + space, pending.depth);
  pending.url = line.substr(std::min(space + 1, line.size()));
  return pending;
}

std::string to_line(int depth, const std::string& url) {
  return std::to_string(depth) + " " + url + "\n";
}

Result<Credentials> find_web_credentials(const Settings& settings, const std::string& origin) {
  Credentials credentials;
  if (const auto value = settings.text("RUNAI_STREAMER_HTTP_AUTHORIZATION")) {
    credentials.values[kAuthorization] = *value;
    credentials.identity = "RUNAI_STREAMER_HTTP_AUTHORIZATION";
    return credentials;
  }
  const std::string file = settings.path("NETRC");
  const Result<std::string> text = read_credential_file(file, "the passwords of");
  const Result<Url> url = parse_url(origin);
  if (text.ok() && url.ok()) {
    if (const auto entry = find_in_netrc(*text, url->host)) {
      credentials.values[kAuthorization] = "Basic " + base64(entry->login + ":" + entry->password);
      credentials.identity = "user " + entry->login + " of " + file;
      return credentials;
    }
  }
  credentials.identity = "none, no credentials were sent";
  return credentials;
}

class Web : public SingleIdentity {
 public:
  Web(const ProtocolContext& context, std::uint64_t whole_read_limit)
      : SingleIdentity(SourceKind::kHttp, context.provider, /*anonymous=*/false,
                       [settings = context.settings](const std::string& container, Connection&) {
                         return find_web_credentials(settings, container);
                       }),
        whole_read_limit_(whole_read_limit) {}

  Result<Location> locate(const std::string& path, bool directory) const override;
  Endpoint endpoint(const Location& location, const Credentials*) const override {
    return {.url = location.container, .from = "of the path"};
  }
  Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                            const Version& version, const CredentialsRef& credentials) override {
    Request request = redirects_.request(location.container + location.key, credentials);
    if (range) request.set("Range", range->header());
    require_unchanged(&request, version.validator);
    return request;
  }
  Result<Request> make_list(const Location& directory, bool recursive, const std::string& next,
                            const CredentialsRef& credentials) override;
  Result<ListPage> read_list(const Location& directory, bool recursive, const std::string& next,
                             const Response& response) override;
  Version version_of(const Response& response) const override {
    return {validator_of(response), "", false};
  }
  ServerError read_error(const Location& location, const Response& response) override;
  std::uint64_t whole_read_limit() const override { return whole_read_limit_; }

 private:
  const std::uint64_t whole_read_limit_;
  Redirects redirects_;
};

Result<Location> Web::locate(const std::string& path, bool directory) const {
  Result<Url> url = parse_url(encode_unsafe(path));
  if (!url.ok()) {
    return url.status().with_path(path).with_hint(
        "User names and passwords belong into ~/.netrc or RUNAI_STREAMER_HTTP_AUTHORIZATION");
  }
  std::string key = url->path.empty() ? "/" : url->path;
  const bool file = key.ends_with(".json") || key.ends_with(".safetensors");
  if (directory && !file && !key.ends_with('/')) key += '/';
  if (!url->query.empty()) key += "?" + url->query;
  return Location{path, url->origin(), std::move(key)};
}

Result<Request> Web::make_list(const Location& directory, bool /*recursive*/,
                               const std::string& next, const CredentialsRef& credentials) {
  const std::string url = next.empty() ? directory.container + directory.key
                                       : parse_pending(next.substr(0, next.find('\n'))).url;
  Request request = redirects_.request(url, credentials);
  if (directory.key.substr(0, directory.key.find('?')).ends_with(".json")) {
    request.text_limit = kIndexLimit;
  }
  // A listed file exists; the response to a request for one byte contains its size.
  if (next.empty() && directory.key.substr(0, directory.key.find('?')).ends_with(".safetensors")) {
    request.set("Range", "bytes=0-0");
  }
  return request;
}

// Paths of listed files begin as the caller wrote the directory, not as it was encoded.
void restore_base(const Location& directory, ListPage* page) {
  const auto base_of = [](const std::string& address) {
    const std::string plain = address.substr(0, address.find('?'));
    return plain.ends_with(".json") ? plain.substr(0, plain.rfind('/')) : plain;
  };
  std::string given = base_of(directory.path);
  std::string asked = base_of(directory.container + directory.key);
  while (given.ends_with('/')) given.pop_back();
  while (asked.ends_with('/')) asked.pop_back();
  for (ListPage::Entry& entry : page->entries) {
    if (entry.path.starts_with(asked)) entry.path.replace(0, asked.size(), given);
  }
}

Result<ListPage> Web::read_list(const Location& directory, bool recursive, const std::string& next,
                                const Response& response) {
  const std::string asked = directory.container + directory.key;
  const std::string plain = directory.key.substr(0, directory.key.find('?'));
  if (plain.ends_with(".json")) {
    Result<ListPage> index = read_checkpoint_index(asked, response.body);
    if (index.ok()) restore_base(directory, &*index);
    return index;
  }
  if (plain.ends_with(".safetensors")) {
    const std::string_view range = response.header("content-range");
    const std::string size(range.substr(std::min(range.find('/') + 1, range.size())));
    ListPage page;
    page.entries.push_back({"", std::strtoull(size.c_str(), nullptr, 10), directory.path});
    return page;
  }
  const std::size_t end = next.find('\n');
  const Pending current = next.empty() ? Pending{0, asked} : parse_pending(next.substr(0, end));
  std::vector<std::string> directories;
  Result<ListPage> page = read_directory_page(current.url, response, &directories);
  if (page.ok()) restore_base(directory, &*page);
  if (!page.ok() || !recursive) return page;
  if (end != std::string::npos) page->next = next.substr(end + 1);
  if (current.depth >= kMaxDirectoryDepth) return page;
  for (const std::string& below : directories) page->next += to_line(current.depth + 1, below);
  if (std::count(page->next.begin(), page->next.end(), '\n') > kMaxPending) {
    return Status::error(Code::kUnsupported,
                         "the list does not end: more than 10,000 directories are still to be read")
        .with_hint("Name a directory further down");
  }
  return page;
}

ServerError Web::read_error(const Location& /*location*/, const Response& response) {
  ServerError error = error_by_status(response.status);
  error.request_id = response.header("x-request-id");
  // A listed directory has more than one URL.
  if (redirects_.handle(response.url, response, &error)) return error;
  if (response.status == 401) {
    error.decision = RetryDecision::kRefresh;
    error.hint = "Set RUNAI_STREAMER_HTTP_AUTHORIZATION or an entry of ~/.netrc";
  } else if (response.status == 403) {
    error.hint = "A presigned URL may have expired";
  } else if (response.status == 404) {
    error.message = "there is no such file";
    error.hint = "Check the URL; one that names a directory is for list_safetensors()";
  } else if (response.status == 410) {
    error.code = Code::kNotFound;
  }
  return error;
}

}  // namespace

Result<std::unique_ptr<Protocol>> make_web(const ProtocolContext& context) {
  const Result<std::uint64_t> limit = read_whole_read_limit(context.settings);
  if (!limit.ok()) return limit.status();
  return std::unique_ptr<Protocol>(std::make_unique<Web>(context, *limit));
}

}  // namespace streamer::http

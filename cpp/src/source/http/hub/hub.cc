#include "source/http/hub/hub.h"

#include <unistd.h>

#include <algorithm>

#include "base/text.h"
#include "source/http/auth/oauth.h"
#include "source/http/factory.h"
#include "source/http/redirects.h"
#include "text/encoding.h"
#include "text/json.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr std::string_view kScheme = "hf://";

// Takes the text up to the next '/' off the front.
std::string take_part(std::string_view* rest) {
  const std::size_t end = std::min(rest->find('/'), rest->size());
  std::string part(rest->substr(0, end));
  rest->remove_prefix(std::min(end + 1, rest->size()));
  return part;
}

bool climbs(const std::string& text) {
  const std::string padded = "/" + text + "/";
  return padded.find("/../") != std::string::npos || padded.find("/./") != std::string::npos ||
         text.find('\0') != std::string::npos;
}

std::string cache_home(const Settings& settings) {
  if (const auto home = settings.text("HF_HOME")) return *home;
  return settings.path("XDG_CACHE_HOME") + "/huggingface";
}

// The URL of rel="next" in the Link header of a response: the header may contain a relative URL
// (RFC 8288, 3.1).
std::string next_link(const Response& response) {
  const std::string_view header = response.header("link");
  const std::size_t mark = header.find("rel=\"next\"");
  const std::size_t open = header.rfind('<', mark);
  const std::size_t close = header.find('>', std::min(open, header.size()));
  if (mark == std::string_view::npos || close == std::string_view::npos || close > mark) return "";
  std::string link = encode_unsafe(std::string(header.substr(open + 1, close - open - 1)));
  const Result<Url> base = parse_url(response.url);
  return base.ok() ? resolve_link(*base, std::move(link)) : link;
}

}  // namespace

bool is_hub_path(const std::string& path) {
  return lower(path.substr(0, kScheme.size())) == kScheme;
}

Result<HubPath> parse_hub_path(const std::string& path) {
  HubPath out;
  std::string_view rest(path);
  rest.remove_prefix(std::min(kScheme.size(), rest.size()));
  if (rest.starts_with("datasets/")) {
    out.type = take_part(&rest);
  } else if (rest.starts_with("models/")) {
    take_part(&rest);
  }
  if (rest.starts_with("buckets/")) {
    return Status::error(Code::kUnsupported, "buckets of the hub are not supported")
        .with_path(path)
        .with_hint("Only repositories are: hf://ORG/REPO[@REVISION][/PATH]");
  }
  const std::string organisation = take_part(&rest);
  std::string name = take_part(&rest);
  if (const std::size_t at = name.find('@'); at != std::string::npos) {
    out.revision = percent_decode(name.substr(at + 1));
    name.resize(at);
    if (out.revision == "refs") {  // refs/pr/1 and refs/convert/NAME are written plainly
      out.revision += "/" + take_part(&rest);
      out.revision += "/" + take_part(&rest);
    }
  }
  out.repo = organisation + "/" + name;
  out.file = rest;
  if (!is_hub_path(path) || organisation.empty() || name.empty() || out.revision.empty() ||
      climbs(out.repo) || climbs(out.revision) || climbs(out.file)) {
    return Status::error(Code::kInvalid, "not a path of the hub")
        .with_path(path)
        .with_hint("hf://ORG/REPO[@REVISION][/PATH]");
  }
  return out;
}

std::string hub_file_url(const std::string& endpoint, const HubPath& path) {
  return endpoint + (path.type == "models" ? "/" : "/" + path.type + "/") +
         percent_encode(path.repo, "/") + "/resolve/" + percent_encode(path.revision) + "/" +
         percent_encode(path.file, "/");
}

std::string hub_tree_url(const std::string& endpoint, const HubPath& directory, bool recursive) {
  std::string file = directory.file;
  while (file.ends_with('/')) file.pop_back();
  return endpoint + "/api/" + directory.type + "/" + percent_encode(directory.repo, "/") +
         "/tree/" + percent_encode(directory.revision) +
         (file.empty() ? "" : "/" + percent_encode(file, "/")) +
         "?recursive=" + (recursive ? "true" : "false");
}

std::string hub_revision_url(const std::string& endpoint, const HubPath& path) {
  return endpoint + "/api/" + path.type + "/" + percent_encode(path.repo, "/") + "/revision/" +
         percent_encode(path.revision);
}

Result<ListPage> read_hub_tree(const Response& response) {
  const std::optional<Json> json = parse_json(response.body);
  if (!json || json->type != Json::Type::kArray) {
    return Status::error(Code::kIo, "the response is not a list of files");
  }
  ListPage page;
  page.next = next_link(response);
  for (const Json& item : json->items) {
    if (item.string("type") != "file") continue;
    ListPage::Entry entry{item.string("path"),
                          static_cast<std::uint64_t>(item.integer("size").value_or(0))};
    entry.sha256 = item["lfs"].string("oid");  // large files are named by their content
    page.entries.push_back(std::move(entry));
  }
  return page;
}

Result<std::string> hub_endpoint(const Settings& settings) {
  return parse_endpoint(settings.text_or_default("HF_ENDPOINT"), "https");
}

Result<Credentials> find_hub_token(const Settings& settings) {
  Credentials credentials;
  std::string token = settings.text("HF_TOKEN").value_or("");
  std::string from = "HF_TOKEN";
  if (token.empty()) {
    from = settings.text("HF_TOKEN_PATH").value_or(cache_home(settings) + "/token");
    if (::access(from.c_str(), F_OK) == 0) {
      Result<std::string> text = read_credential_file(from, "the hub's token in");
      if (!text.ok()) return text.status();
      token = trim(*text);
    }
  }
  credentials.identity = token.empty() ? "anonymous (no HF_TOKEN)" : "the hub's token of " + from;
  if (!token.empty()) credentials.values[kToken] = token;
  return credentials;
}

bool is_commit(const std::string& revision) {
  return revision.size() == 40 &&
         revision.find_first_not_of("0123456789abcdef") == std::string::npos;
}

HubCache::HubCache(const Settings& settings, const HubPath& path) {
  directory_ = settings.text("HF_HUB_CACHE").value_or(cache_home(settings) + "/hub") + "/" +
               path.type + "--" + path.repo;
  const std::size_t slash = directory_.size() - path.repo.size() + path.repo.find('/');
  directory_.replace(slash, 1, "--");
}

std::string HubCache::commit(const std::string& revision) const {
  const std::string reference = directory_ + "/refs/" + revision;
  if (::access(reference.c_str(), R_OK) == 0) {
    Result<std::string> text = read_credential_file(reference, "the hub's cache at");
    if (text.ok()) return std::string(trim(*text));
  }
  return revision;
}

std::optional<std::string> HubCache::find(const std::string& commit,
                                          const std::string& file) const {
  if (climbs(commit)) return std::nullopt;
  std::string local = directory_ + "/snapshots/" + commit;
  if (!file.empty()) local += "/" + file;
  if (::access(local.c_str(), R_OK) != 0) return std::nullopt;
  return local;
}

}  // namespace streamer::http

namespace streamer {

std::string hub_key(const std::string& path) {
  const Result<http::HubPath> parsed = http::parse_hub_path(path);
  return parsed.ok() ? parsed->file : std::string();
}

std::string hub_at_version(const std::string& path, const std::string& commit) {
  const Result<http::HubPath> parsed = http::parse_hub_path(path);
  if (!parsed.ok()) return path;
  std::string repository = path.substr(0, path.size() - parsed->file.size());
  const std::string slash = repository.ends_with('/') ? "/" : "";
  repository.resize(std::min(repository.find('@'), repository.size() - slash.size()));
  return repository + "@" + commit + slash + parsed->file;
}

}  // namespace streamer

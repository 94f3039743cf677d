#include "source/http/web/web_list.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "source/http/error_status.h"
#include "source/http/redirects.h"
#include "text/encoding.h"
#include "text/json.h"

namespace streamer::http {
namespace {

// `url` up to its last '/', without the query.
std::string base_of(const std::string& url) {
  const std::string plain = url.substr(0, url.find('?'));
  return plain.substr(0, plain.rfind('/') + 1);
}

// The query of `url` with its '?'. A query that grants access to a directory grants it to all files
// below.
std::string query_of(const std::string& url) {
  return url.substr(std::min(url.find('?'), url.size()));
}

// A name that stays below the directory: relative, without steps upwards.
bool stays_below(std::string_view name) {
  if (name.empty() || name.front() == '/' || name.find("://") != std::string_view::npos ||
      name.find('\\') != std::string_view::npos) {
    return false;
  }
  const std::string padded = "/" + percent_decode(name) + "/";
  return padded.find("/../") == std::string::npos && padded.find("/./") == std::string::npos;
}

// Replaces the entity of '&', which is the only one that matters in links.
std::string decode_ampersands(std::string_view link) {
  constexpr std::string_view kEntity = "&amp;";
  std::string out;
  while (!link.empty()) {
    const std::size_t end = link.find(kEntity);
    out += link.substr(0, end);
    if (end == std::string_view::npos) break;
    out += '&';
    link.remove_prefix(end + kEntity.size());
  }
  return out;
}

void add(std::string address, std::uint64_t size, bool directory, ListPage* page,
         std::vector<std::string>* directories) {
  if (directory) {
    directories->push_back(std::move(address));
  } else {
    page->entries.push_back({"", size, std::move(address)});
  }
}

void read_links(const std::string& directory_url, std::string_view html, ListPage* page,
                std::vector<std::string>* directories) {
  std::set<std::string> seen;
  const std::string text = lower(html);
  for (std::size_t at = 0; (at = text.find("href=", at)) != std::string::npos;) {
    at += 5;
    if (at >= text.size()) break;
    const char quote = html[at];
    if (quote != '"' && quote != '\'') continue;
    const std::size_t end = html.find(quote, at + 1);
    if (end == std::string_view::npos) break;
    std::string link(html.substr(at + 1, end - at - 1));
    at = end;
    link = decode_ampersands(link);
    if (link.starts_with("./")) link.erase(0, 2);
    const bool directory = link.ends_with('/');
    // One level below the directory; other links are not files.
    if (!stays_below(link) || link.find_first_of("?#:") != std::string::npos ||
        link.find('/') < link.size() - 1 || !seen.insert(link).second) {
      continue;
    }
    add(base_of(directory_url) + encode_unsafe(link) + query_of(directory_url), 0, directory, page,
        directories);
  }
}

}  // namespace

Result<ListPage> read_checkpoint_index(const std::string& index_url, const std::string& text) {
  const std::optional<Json> json = parse_json(text);
  if (!json || (*json)["weight_map"].type != Json::Type::kObject) {
    return Status::error(Code::kIo, "not an index of a checkpoint: it has no weight_map");
  }
  std::set<std::string> shards;
  for (const Json& shard : (*json)["weight_map"].items) shards.insert(shard.text);
  // A query that grants access to a directory grants it to the files of its index.
  const std::string query = query_of(index_url);
  ListPage page;
  for (const std::string& shard : shards) {
    if (!stays_below(shard)) {
      return Status::error(Code::kIo, "the index names a file outside its directory: " + shard);
    }
    page.entries.push_back({"", 0, base_of(index_url) + percent_encode(shard, "/") + query});
  }
  return page;
}

Result<ListPage> read_directory_page(const std::string& directory_url, const Response& response,
                                     std::vector<std::string>* directories) {
  ListPage page;
  const auto json = parse_json(response.body);
  if (json && json->type == Json::Type::kArray) {
    for (const Json& item : json->items) {
      const bool directory = item.string("type") == "directory";
      const std::string name = item.string("name");
      if (!stays_below(percent_encode(name))) continue;
      add(base_of(directory_url) + percent_encode(name) + (directory ? "/" : "") +
              query_of(directory_url),
          static_cast<std::uint64_t>(item.integer("size").value_or(0)), directory, &page,
          directories);
    }
    return page;
  }
  if (response.header("content-type").find("html") == std::string_view::npos) {
    return Status::error(Code::kUnsupported, "the server does not list this directory")
        .with_hint("Pass the URL of model.safetensors.index.json or of a .safetensors file");
  }
  read_links(directory_url, response.body, &page, directories);
  // Pages of directories have no forms for input.
  const bool empty = page.entries.empty() && directories->empty();
  if (empty && lower(response.body).find("<form") != std::string::npos) {
    return sent_a_page(response, "list");
  }
  return page;
}

}  // namespace streamer::http

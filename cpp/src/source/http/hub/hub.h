// The model hub: hf://ORG/REPO[@REVISION][/PATH].
#pragma once

#include <optional>
#include <string>

#include "base/settings.h"
#include "source/http/protocol.h"

namespace streamer::http {

struct HubPath {
  std::string type = "models";  // or datasets, for hf://datasets/ORG/REPO
  std::string repo;             // ORG/REPO
  std::string revision = "main";
  std::string file;  // or a directory's name; may be empty
};

bool is_hub_path(const std::string& path);
Result<HubPath> parse_hub_path(const std::string& path);

// URLs at the hub `endpoint` (no '/' at its end).
std::string hub_file_url(const std::string& endpoint, const HubPath& path);
std::string hub_tree_url(const std::string& endpoint, const HubPath& directory, bool recursive);
// Of the document that tells the commit of the path's revision.
std::string hub_revision_url(const std::string& endpoint, const HubPath& path);
// True if a revision is the name of a commit, whose files never change.
bool is_commit(const std::string& revision);

// The files that the hub's own tools keep of one repository.
class HubCache {
 public:
  HubCache(const Settings& settings, const HubPath& path);
  // The commit that the revision was at when it was fetched last; else the revision itself.
  std::string commit(const std::string& revision) const;
  // The copy of a file, or of a directory; an empty name is the whole repository.
  std::optional<std::string> find(const std::string& commit, const std::string& file) const;

 private:
  std::string directory_;
};

// A page of the tree; `next` is the URL of the next one.
Result<ListPage> read_hub_tree(const Response& response);

// https://huggingface.co, or HF_ENDPOINT.
Result<std::string> hub_endpoint(const Settings& settings);
// HF_TOKEN, or the file that the hub's login writes. Empty values if there is none.
Result<Credentials> find_hub_token(const Settings& settings);

}  // namespace streamer::http

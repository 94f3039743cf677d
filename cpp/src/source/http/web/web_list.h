// Lists of the files of a plain web server: index files of checkpoints and its own pages of
// directories.
#pragma once

#include <string>
#include <string_view>

#include "source/http/protocol.h"

namespace streamer::http {

// The shards that a checkpoint's index (model.safetensors.index.json) names, as URLs beside
// it. Their sizes are not known: 0.
Result<ListPage> read_checkpoint_index(const std::string& index_url, const std::string& text);

// The entries of a server's page of the directory at `directory_url`: nginx' JSON, or the links of
// HTML that lead below the directory. Directories are added to `directories`, as URLs whose path
// ends with '/'. Each URL has the query of `directory_url`.
Result<ListPage> read_directory_page(const std::string& directory_url, const Response& response,
                                     std::vector<std::string>* directories);

}  // namespace streamer::http

// The "Shared Key" scheme of Azure Storage.
#pragma once

#include <ctime>
#include <string>

#include "source/http/client/request.h"
#include "text/url.h"

namespace streamer::http {

// Adds x-ms-date and Authorization. `url` is the request's, `key` the account's key as bytes.
// Headers that begin with "x-ms-" must consist of letters, digits and '-'.
void sign_shared_key(Request* request, const Url& url, const std::string& account,
                     const std::string& key, std::time_t now);

}  // namespace streamer::http

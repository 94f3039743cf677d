// The clocks of servers, for requests that are signed with a date.
#pragma once

#include <ctime>
#include <string>

#include "source/http/client/request.h"

namespace streamer::http {

// The time of the server that `url` names: this machine's, until the server has refused a request
// for its date. Shared by all sources of the process, by the origin of the URL. Thread-safe.
std::time_t server_time(const std::string& url);

// Takes the time of a response that refuses a request for its date, which must be in
// Request::signed_at. True if the request is worth signing again: the date that it had differs from
// the response's Date by more than a minute. Clocks that differ by more than a day are not
// followed: a server must not obtain signatures for a time that it chooses.
bool learn_server_time(const Response& response);

}  // namespace streamer::http

// The errors of requests, for people.
#pragma once

#include <string>

#include "source/http/client/request.h"
#include "source/http/protocol.h"
#include "streamer/status.h"

namespace streamer::http {

// The error that a response tells, by `error`, which the protocol has read of it.
Status to_status(ServerError error, const Response& response, const CredentialsRef& credentials);
// The error of an object that was replaced, by that of asking for its former version.
Status replaced(Status status);
// The error of a page of HTML that came instead of `wanted`: of a proxy, or of a login page.
Status sent_a_page(const Response& response, const std::string& wanted);
bool is_html(const Response& response);
// The hint for an error that has none of its own.
const char* standard_hint(const Status& status);

}  // namespace streamer::http

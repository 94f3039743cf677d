// The errors of requests, for people.
#pragma once

#include "source/http/client/request.h"
#include "source/http/protocol.h"
#include "streamer/status.h"

namespace streamer::http {

// The error that a response tells, by `error`, which the protocol has read of it.
Status to_status(ServerError error, const Response& response, const CredentialsRef& credentials);
// The error of an object that was replaced, by that of asking for its former version.
Status replaced(Status status);
// What to do about an error that has no hint of its own.
const char* standard_hint(const Status& status);

}  // namespace streamer::http

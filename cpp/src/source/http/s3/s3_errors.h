// The meaning of the error codes of S3 and compatible stores.
#pragma once

#include <string>

#include "source/http/protocol.h"

namespace streamer::http {

// By status, code and message of a response; the body may be missing (HEAD, 304).
ServerError read_s3_error(const Response& response);

// True if a refusal comes from S3, and not from another server at that address.
bool is_s3_response(const Response& response);

// The region of the bucket that a response names, or empty.
std::string region_in_response(const Response& response);

}  // namespace streamer::http

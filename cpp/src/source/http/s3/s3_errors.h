// What S3 and its relatives mean by their error codes.
#pragma once

#include <string>

#include "source/http/protocol.h"

namespace streamer::http {

// By status, code and message of an answer; the body may be missing (HEAD, 304).
ServerError read_s3_error(const Response& response);

// The region that an answer says the bucket is in, or empty.
std::string region_in_answer(const Response& response);

}  // namespace streamer::http

// One operation on a storage, and the loop of its attempts.
#pragma once

#include <cstdint>
#include <functional>

#include "source/http/client/connection.h"
#include "source/http/http_source.h"
#include "source/http/protocol.h"
#include "source/source.h"

namespace streamer::http {

// One operation, over all of its attempts.
struct Operation {
  const Location& location;
  std::function<Result<Request>(const CredentialsRef&)> make;
  std::function<BodySink*()> body;  // for the next attempt; may be empty
  // Counts the bytes of an attempt; `done` if nothing is missing any more.
  std::function<std::uint64_t(bool* done)> progress;
  // After a refusal, or a response of another snapshot: true if `make` makes another request now.
  std::function<bool(const ServerError*)> changed;
  // Responses with an error status that are fine.
  std::function<bool(const Response&)> tolerate;
  ReadProgress* watched = nullptr;  // it is told of pauses
  int hurry_ms = 0;                 // of the first attempt, if others are to follow soon; 0: none
  bool begins_late = false;         // the server has to look for much before it responds
  // True if the body of a successful response is not the object that was asked for.
  std::function<bool()> foreign = {};
  // True if such a body ended too early: without a length, its end is that of the connection.
  std::function<bool()> cut_off = {};
};

// Performs operations over one connection: retries, refreshes credentials, and goes elsewhere if
// the protocol knows another place.
class OperationLoop {
 public:
  OperationLoop(HttpSource& source, Connection& connection)
      : source_(source), connection_(connection) {}

  Status perform(const Operation& operation, Response* response, ReadReport* report);
  // `status` of a request for `location`, with the endpoint that was asked.
  Status from_endpoint(Status status, const Location& location, const CredentialsRef& who) const;

 private:
  HttpSource& source_;
  Connection& connection_;
};

}  // namespace streamer::http

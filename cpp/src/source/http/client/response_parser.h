// An HTTP/1.1 response, read from the bytes of a connection (RFC 9112).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "source/http/client/attempt.h"
#include "source/http/client/request.h"
#include "text/url.h"

namespace streamer::http {

// The text of a request without a body to `url`. By an HTTP proxy it names the whole URL and has
// `proxy_authorization`, unless that is empty.
enum class Target { kServer, kProxy };
std::string format_request(const Request& request, const Url& url, const std::string& user_agent,
                           Target target = Target::kServer,
                           const std::string& proxy_authorization = {});

// Hands header lines and the body to an attempt, by any framing of the body. Bytes come from the
// owner of the connection:
//
//   while (!reader.done()) {
//     if (auto room = reader.room(); !room.empty()) { receive into room; reader.stored(n); }
//     else { receive elsewhere; reader.feed(bytes); }
//   }
//
// False ends the transfer: problem(), Attempt::ended_early, Attempt::abort, or the transport's
// interruption has the reason. The connection then can't be used again.
class ResponseParser {
 public:
  // `head`: of a request HEAD, whose response has no body.
  explicit ResponseParser(Attempt* attempt, bool head = false) : attempt_(*attempt), head_(head) {}

  bool feed(std::span<const char> bytes);
  // Memory of the attempt for the next bytes of the body, as long as the connection brings these.
  std::span<char> room() const;
  bool stored(std::size_t size);
  // The peer has closed the connection. False: there should have been more.
  bool closed();

  bool begun() const { return begun_; }  // some byte has come
  bool in_header() const { return state_ == State::kHeader; }
  bool done() const { return state_ == State::kDone; }
  // True if the connection can take another request, once done.
  bool reusable() const { return reusable_; }
  std::uint64_t missing() const { return left_; }          // bytes of a body of known length
  const std::string& problem() const { return problem_; }  // the reason if the response is not HTTP

 private:
  enum class State {
    kHeader,
    kLength,
    kUntilClose,
    kChunkSize,
    kChunk,
    kChunkEnd,
    kTrailer,
    kDone
  };

  bool take_line(std::span<const char>* bytes, bool* complete);
  bool header_line();
  bool begin_body();
  bool chunk_size();
  bool malformed(const char* what);

  Attempt& attempt_;
  const bool head_;
  State state_ = State::kHeader;
  bool begun_ = false;
  bool status_line_ = false;  // seen, of the response that is being read
  bool reusable_ = false;
  std::uint64_t left_ = 0;         // of the body or of a chunk
  std::size_t trailer_bytes_ = 0;  // of the fields behind the last chunk
  std::string line_;
  std::string problem_;
};

}  // namespace streamer::http

#include "source/http/client/response_parser.h"

#include <algorithm>

#include "base/text.h"

namespace streamer::http {
namespace {

constexpr std::size_t kLineLimit = 64 << 10;
constexpr char kTlsAlert = 0x15;  // the first byte of a record that refuses bytes without TLS

}  // namespace

std::string format_request(const Request& request, const Url& url, const std::string& user_agent,
                           Target target, const std::string& proxy_authorization) {
  std::string text = request.method + " ";
  if (target == Target::kProxy) text += url.origin();
  text += url.path.empty() ? "/" : url.path;
  if (!url.query.empty()) text += "?" + url.query;
  text += " HTTP/1.1\r\nHost: " + url.authority() + "\r\nUser-Agent: " + user_agent +
          "\r\nAccept: */*\r\nAccept-Encoding: identity\r\n";
  if (!proxy_authorization.empty()) text += "Proxy-Authorization: " + proxy_authorization + "\r\n";
  for (const Header& header : request.headers) {
    if (lower(header.name) != "host") text += header.name + ": " + header.value + "\r\n";
  }
  return text + "\r\n";
}

bool ResponseParser::malformed(const char* what) {
  problem_ = std::string("the server's response is not HTTP: ") + what;
  return false;
}

// Moves bytes to `line_` up to a newline, which is left out.
bool ResponseParser::take_line(std::span<const char>* bytes, bool* complete) {
  const auto newline = std::find(bytes->begin(), bytes->end(), '\n');
  *complete = newline != bytes->end();
  line_.append(bytes->begin(), newline);
  *bytes = bytes->subspan(static_cast<std::size_t>(newline - bytes->begin()) + (*complete ? 1 : 0));
  if (line_.size() > kLineLimit) return malformed("a line is too long");
  if (*complete && line_.ends_with('\r')) line_.pop_back();
  return true;
}

bool ResponseParser::feed(std::span<const char> bytes) {
  if (!begun_ && !bytes.empty() && bytes.front() == kTlsAlert) {
    return malformed("it speaks TLS. Use https:// in the endpoint");
  }
  begun_ = begun_ || !bytes.empty();
  while (!bytes.empty()) {
    if (state_ == State::kDone) {  // no more was asked for
      reusable_ = false;
      return true;
    }
    if (state_ == State::kLength || state_ == State::kUntilClose || state_ == State::kChunk) {
      std::size_t size = bytes.size();
      if (state_ != State::kUntilClose) size = std::min<std::uint64_t>(size, left_);
      left_ -= state_ == State::kUntilClose ? 0 : size;
      if (!attempt_.write(bytes.data(), size)) return false;
      bytes = bytes.subspan(size);
      if (left_ == 0 && state_ == State::kLength) state_ = State::kDone;
      if (left_ == 0 && state_ == State::kChunk) state_ = State::kChunkEnd;
      continue;
    }
    bool complete = false;
    if (!take_line(&bytes, &complete)) return false;
    if (!complete) return true;
    bool fine = true;
    switch (state_) {
      case State::kHeader: fine = header_line(); break;
      case State::kChunkSize: fine = chunk_size(); break;
      case State::kChunkEnd:
        fine = line_.empty() || malformed("a chunk has another length than it says");
        state_ = State::kChunkSize;
        break;
      default:
        trailer_bytes_ += line_.size();
        if (line_.empty()) state_ = State::kDone;
        if (trailer_bytes_ > kLineLimit) fine = malformed("its trailer is too long");
        break;
    }
    line_.clear();
    if (!fine) return false;
  }
  return true;
}

bool ResponseParser::header_line() {
  if (!status_line_) {
    if (!line_.starts_with("HTTP/1.")) return malformed("it has no status line");
    status_line_ = true;
    reusable_ = line_.starts_with("HTTP/1.1");
    return attempt_.header(line_) || malformed("its status line has no status");
  }
  if (!line_.empty()) {
    // A line of this kind would be taken for the status line of another response.
    if (line_.starts_with("HTTP/")) return malformed("it has two status lines");
    return attempt_.header(line_);
  }
  if (attempt_.response->status < 200) {  // 1xx: the response follows
    status_line_ = false;
    return attempt_.response->status != 101 || malformed("it changes the protocol");
  }
  return begin_body();
}

bool ResponseParser::begin_body() {
  const Response& response = *attempt_.response;
  if (lower(response.header("connection")).find("close") != std::string::npos) reusable_ = false;
  // The attempt may refuse the response by its header.
  if (!attempt_.header("\r\n")) return false;
  const std::string encoding = lower(response.header("transfer-encoding"));
  const std::string_view length = response.header("content-length");
  if (head_ || response.status == 204 || response.status == 304) {
    state_ = State::kDone;
  } else if (!encoding.empty()) {
    if (encoding != "chunked") return malformed("its transfer encoding is unknown");
    if (!length.empty()) reusable_ = false;
    state_ = State::kChunkSize;
  } else if (!length.empty()) {
    for (const Header& header : response.headers) {
      if (header.name == "content-length" && header.value != length) {
        return malformed("it has two lengths");
      }
    }
    const auto size = parse_number(length);
    if (!size) return malformed("its Content-Length is not a number");
    left_ = *size;
    state_ = left_ > 0 ? State::kLength : State::kDone;
  } else {
    state_ = State::kUntilClose;
    reusable_ = false;
  }
  return true;
}

bool ResponseParser::chunk_size() {
  const std::string_view digits = trim(std::string_view(line_).substr(0, line_.find(';')));
  const auto size = parse_number(digits, 16);
  if (!size) return malformed("the size of a chunk is not a number");
  left_ = *size;
  state_ = left_ > 0 ? State::kChunk : State::kTrailer;
  return true;
}

std::span<char> ResponseParser::room() const {
  if (state_ != State::kLength && state_ != State::kChunk) return {};
  const std::span<char> room = attempt_.room();
  return room.first(std::min<std::uint64_t>(room.size(), left_));
}

bool ResponseParser::stored(std::size_t size) {
  left_ -= size;
  if (left_ == 0) state_ = state_ == State::kLength ? State::kDone : State::kChunkEnd;
  return attempt_.stored(size);
}

bool ResponseParser::closed() {
  reusable_ = false;
  if (state_ != State::kUntilClose) return false;
  state_ = State::kDone;
  return true;
}

}  // namespace streamer::http

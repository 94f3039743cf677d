// Any bytes as the response of a server, in pieces of any size: a response or an error, and never a
// byte outside of the memory for the body.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "source/http/client/response_parser.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace streamer::http;
  if (size < 2) return 0;
  const std::size_t piece = 1 + data[0];
  std::vector<char> memory(data[1]);  // of its exact size: a byte behind it is found
  std::string_view left(reinterpret_cast<const char*>(data) + 2, size - 2);
  const streamer::CancelToken cancel;
  Transport transport(TransportSettings(), cancel);
  Response response;
  BodySink body;
  const iovec segment{memory.data(), memory.size()};
  if (!memory.empty()) body.segments = {&segment, 1};
  Attempt attempt(&transport, &response, &body);
  ResponseParser reader(&attempt);
  while (!reader.done() && !left.empty()) {
    const std::span<char> room = reader.room();
    std::size_t part = std::min(piece, left.size());
    bool fine = false;
    if (!room.empty()) {
      part = std::min(part, room.size());
      std::memcpy(room.data(), left.data(), part);
      fine = reader.stored(part);
    } else {
      fine = reader.feed({left.data(), part});
    }
    if (!fine) return 0;
    left.remove_prefix(part);
  }
  if (!reader.done()) (void)reader.closed();
  if (body.received > memory.size()) std::abort();
  return 0;
}

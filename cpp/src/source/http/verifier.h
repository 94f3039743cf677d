// The comparison of read bytes with the checksums and digests that servers name.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "source/http/client/connection.h"
#include "source/http/client/request.h"
#include "source/http/content_check.h"
#include "source/http/http_object.h"
#include "source/http/protocol.h"
#include "streamer/status.h"

namespace streamer::http {

// The objects that are compared with the checksums that servers name.
enum class Verify {
  kNone,
  kCheap,  // those that come with the reads, or cost little time
  kAll,
};

// Of one reader, whose thread it runs in.
class Verifier {
 public:
  // Counts the objects that were compared in `verified`.
  Verifier(Verify chosen, Protocol* protocol, Connection* connection,
           std::atomic<std::uint64_t>* verified)
      : chosen_(chosen), protocol_(*protocol), connection_(*connection), verified_(*verified) {}

  // The check of an object of `size` bytes that begins with `prefix`; null: nothing is compared.
  // `later`: its checksum needs a request.
  std::unique_ptr<ContentCheck> make_check(const Response& response, std::uint64_t size,
                                           std::span<const std::byte> prefix, bool* later) const;
  // Requests the checksum of the object, if that is necessary and was not done.
  void ask(const HttpObject& object);
  // After opening, with the bytes that were read by it.
  Status verify_opened(const HttpObject& object, const iovec& prefix, const Response& response);
  // After each read, of `segments` at `offset`. `sum` is theirs, or empty.
  Status verify(const HttpObject& object, std::uint64_t offset, std::span<const iovec> segments,
                const Response& response, const RunningSum& sum);

 private:
  Status verify_whole(const HttpObject& object, std::span<const iovec> segments,
                      const Response& response);

  const Verify chosen_;
  Protocol& protocol_;
  Connection& connection_;
  std::atomic<std::uint64_t>& verified_;
};

}  // namespace streamer::http

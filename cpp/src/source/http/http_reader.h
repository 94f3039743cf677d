// Reads and lists objects over one connection.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "source/http/client/connection.h"
#include "source/http/http_object.h"
#include "source/http/http_source.h"
#include "source/http/operation.h"
#include "source/http/protocol.h"
#include "source/http/range_read.h"
#include "source/http/verifier.h"
#include "source/source.h"

namespace streamer::http {

class HttpReader : public Reader {
 public:
  explicit HttpReader(HttpSource& source)
      : source_(source),
        protocol_(source.protocol()),
        connection_(source.transport()),
        loop_(source, connection_),
        verifier_(source.chosen().verify, &protocol_, &connection_, source.verified()) {
    connection_.count_tls_in(source.budget());
  }

  Result<Opened> open(const std::string& path, std::span<std::byte> prefix) override {
    return open_listed(path, "", prefix);
  }
  Result<Opened> open_listed(const std::string& path, const std::string& version,
                             std::span<std::byte> prefix) override;
  Result<std::string> local_copy(const std::string& path, bool directory) override {
    return protocol_.local_copy(path, directory, connection_);
  }
  Status read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
              ReadReport* report) override;
  Status list(const std::string& prefix, bool recursive, const ListCallback& found) override;
  Result<Access> access(const std::string& path) override;

 private:
  Status read_range(const Location& location, RangeRead* range, Response* response,
                    ReadReport* report, bool tolerate_416, int hurry_ms);
  Result<Opened> open_empty(Location location);
  Status compare_sample(const HttpObject& object, ReadReport* report);

  HttpSource& source_;
  Protocol& protocol_;
  Connection connection_;
  OperationLoop loop_;
  Verifier verifier_;
};

}  // namespace streamer::http

// A protocol of object storage: the requests for bytes and lists, and the meaning of refusals. It
// makes requests and reads responses; connections, retries and memory belong to the transport.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "source/http/auth/credentials_cache.h"
#include "source/http/client/connection.h"
#include "source/http/client/request.h"
#include "source/http/content_check.h"
#include "streamer/status.h"
#include "streamer/types.h"

namespace streamer::http {

// An object or a directory, as a protocol understands its path.
struct Location {
  std::string path;             // as the caller gave it
  std::string container;        // bucket, container or host
  std::string key;              // not encoded; of a directory: empty, or ends with '/'
  std::string version_id = {};  // that the path names; empty: the newest
};

// The content that is read of an object, even if the object is replaced meanwhile.
struct Version {
  std::string validator;  // ETag, generation or modification time: reads of another content fail
  std::string id;         // of a store that keeps replaced objects; empty: it does not
  bool by_id = false;     // request `id`: another object has the name by now
};

struct ByteRange {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::string header() const {  // the value of Range; size must not be 0
    return "bytes=" + std::to_string(offset) + "-" + std::to_string(offset + size - 1);
  }
};

struct ListPage {
  struct Entry {
    std::string key;  // not encoded
    std::uint64_t size = 0;
    std::string path = {};     // empty: the directory's path and the rest behind its key
    std::string version = {};  // see ListedObject::version; empty: the list does not tell
    std::string sha256 = {};   // likewise
  };
  std::vector<Entry> entries;  // objects only, no directories
  std::string next;            // for make_list() of the next page; empty: this is the last
};

// The reaction to a response that is not a success.
enum class RetryDecision {
  kFail,         // at once
  kRetry,        // after a pause
  kRefresh,      // with new credentials, once
  kRetryAtOnce,  // at once: the protocol knows more now (a region, the time)
  kFollow,       // at once, to the target of the redirect
};

struct ServerError {
  RetryDecision decision = RetryDecision::kFail;
  Code code = Code::kIo;  // of the error that the caller gets in the end
  std::string message;    // empty: made from the code
  std::string server_code;
  std::string server_message;
  std::string request_id;
  std::string hint;
};

// RetryDecision and code by the HTTP status alone, as RFC 9110 and common practice have it: 404
// kNotFound, 401 and 403 kPermission, 412 kChanged, 408, 429, 498 and 5xx (not 501, 505) kRetry,
// others kFail.
ServerError error_by_status(int status);

// The meaning of the error codes of a service.
struct KnownError {
  const char* code;
  Code meaning;
  RetryDecision decision;
  const char* message;
  const char* hint;
};
// Completes `error` by its server_code; false if the table does not have it.
bool apply_known(std::span<const KnownError> table, ServerError* error);

// The container and the key that `path` has from `start` on (behind the scheme). kInvalid if
// one is missing, with `example` as a hint.
Result<Location> locate_in_container(const std::string& path, std::size_t start, bool directory,
                                     const char* example);

// An ETag as header fields have it: some lists leave its quotes out.
std::string quoted_etag(std::string_view etag);

// Adds an object to a page, unless its key is that of a directory. `size` is a number as text.
void add_listed(ListPage* page, std::string_view key, std::string_view size,
                std::string_view version = {});

// The URL of a service, and its source.
struct Endpoint {
  std::string url;          // scheme, host and port
  std::string from;         // a setting, "the path", or a rule of the cloud
  std::string host = {};    // of requests for the container; empty: that of `url`
  std::string region = {};  // that requests are signed for; empty: none

  std::string shown() const { return from.empty() ? url : url + " (" + from + ")"; }
};

// One per stream and kind of storage. Thread-safe.
class Protocol {
 public:
  virtual ~Protocol() = default;

  // Reads a path; with `directory` as the place to list. kInvalid if it is malformed.
  virtual Result<Location> locate(const std::string& path, bool directory) const = 0;

  // The endpoint of requests for `location`. `who` may name it; null: no identity.
  virtual Endpoint endpoint(const Location& location, const Credentials* who) const = 0;

  // The identity of requests. Null: none (requests are not signed). May use the connection to find
  // it.
  virtual Result<CredentialsRef> credentials(const Location& location, Connection& connection) = 0;
  // The server refused them: the next call of credentials() should bring others.
  virtual void refused(const Location& location, const CredentialsRef& credentials) = 0;

  // The path of a local copy of `path`, or `path` itself.
  virtual Result<std::string> local_copy(const std::string& path, bool /*directory*/,
                                         Connection& /*connection*/) {
    return path;
  }
  // Finds the facts that requests for `location` need and can't find themselves. Called once
  // before a list.
  virtual Status prepare_list(const Location& /*directory*/, const CredentialsRef& /*credentials*/,
                              Connection& /*connection*/) {
    return {};
  }
  // Takes the version of a list: the first read of the object must find it.
  virtual Version listed_version(const Location& /*location*/, const std::string& listed) {
    return {listed, "", false};
  }

  // A signed request for `range`, or for the whole object if there is none, that fails if the
  // object is not at `version` (unless its validator is empty).
  virtual Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                                    const Version& version, const CredentialsRef& credentials) = 0;
  // True if a successful response is of the same snapshot as those before it. If it is not, the
  // request is made again, and make_read() makes another one.
  virtual bool same_snapshot(const Location& /*location*/, const Response& /*response*/) {
    return true;
  }
  // A signed request for the page of a list that `next` names (empty: the first).
  virtual Result<Request> make_list(const Location& directory, bool recursive,
                                    const std::string& next, const CredentialsRef& credentials) = 0;
  virtual Result<ListPage> read_list(const Location& directory, bool recursive,
                                     const std::string& next, const Response& response) = 0;

  // True if a refused list means that there is no such directory, which counts as an empty one.
  virtual bool is_empty_list(const Response& /*response*/) const { return false; }

  // The validator of an object's content: by default the ETag.
  virtual Version version_of(const Response& response) const {
    return {std::string(response.header("etag")), "", false};
  }
  // The checksum of the whole object, if the response names it.
  virtual std::optional<Checksum> checksum_of(const Response& /*response*/) const {
    return std::nullopt;
  }
  // The same as a digest (MD5, 16 bytes), which only a read of the whole object can be compared
  // with; empty: none.
  virtual std::string md5_of(const Response& /*response*/) const { return {}; }
  // A signed request for nothing but the checksum of checksum_of(); kUnsupported if reads bring it,
  // or nothing does.
  virtual Result<Request> make_checksum_request(const Location& /*location*/,
                                                const Version& /*version*/,
                                                const CredentialsRef& /*credentials*/) {
    return Status::error(Code::kUnsupported, "");
  }
  virtual bool has_checksum_request() const { return false; }
  // Understands any response that is not 2xx, redirects included. Bodies may be cut or missing.
  virtual ServerError read_error(const Location& location, const Response& response) = 0;
  // A request found no server (null), or one that refuses it. True if it is worth another attempt
  // at once since make_read() and make_list() name another host by now. `settled`: the storage has
  // responded to a request of this source before.
  virtual bool elsewhere(const Location& /*location*/, const Request& /*request*/,
                         const Response* /*response*/, bool /*settled*/) {
    return false;
  }
  // Objects up to this size may be read from servers that ignore Range, by reading past the rest.
  virtual std::uint64_t whole_read_limit() const { return 0; }
  // A file of certificates that the protocol's own configuration names; empty: none.
  virtual std::string trust_file() const { return {}; }
};

// A protocol whose requests all carry the credentials of one cache: one identity for each
// container.
class SingleIdentity : public Protocol {
 public:
  Result<CredentialsRef> credentials(const Location& location, Connection& connection) override {
    if (anonymous_) return CredentialsRef();
    return cache_.get(location.container, connection);
  }
  void refused(const Location& location, const CredentialsRef& used) override {
    cache_.refused(location.container, used);
  }

 protected:
  SingleIdentity(SourceKind kind, const CredentialsProvider& provider, bool anonymous,
                 CredentialsCache::Resolver own)
      : anonymous_(anonymous), cache_(kind, provider, std::move(own)) {}
  const bool anonymous_;  // without an identity

 private:
  CredentialsCache cache_;
};

// The makers. Each reads its own settings and fails with kInvalid if they contradict each other.
struct ProtocolContext {
  const Settings& settings;
  const CredentialsProvider& provider;  // may be empty
};
Result<std::unique_ptr<Protocol>> make_s3(const ProtocolContext& context);
Result<std::unique_ptr<Protocol>> make_gcs(const ProtocolContext& context);
Result<std::unique_ptr<Protocol>> make_azure(const ProtocolContext& context);
Result<std::unique_ptr<Protocol>> make_web(const ProtocolContext& context);
Result<std::unique_ptr<Protocol>> make_hub(const ProtocolContext& context);

}  // namespace streamer::http

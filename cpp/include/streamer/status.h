// The result of an operation: success, or an error with its cause, place and remedy.
//
// Copyright the Model Streamer authors. Apache-2.0.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "streamer/export.h"

namespace streamer {

enum class Code : int {
  kOk = 0,
  kInvalid,      // the caller's arguments or settings
  kNotFound,     // no such file, object, bucket
  kPermission,   // refused by the file system or the server
  kIo,           // the storage failed (errno, or an HTTP response that no other code fits)
  kShortRead,    // the object ended before the range did
  kChanged,      // the object was replaced or modified while it was read
  kMemoryLimit,  // the memory limit is below the need of the plan
  kOutOfMemory,  // the system refused memory
  kTimeout,      // nothing arrived in time, or a deadline passed
  kCancelled,    // the stream was closed while the operation waited
  kUnsupported,  // this build or this platform can't do it
  kNetwork,      // no connection: DNS, refused, reset, TLS
  kCredentials,  // no usable identity, or the server does not accept it
  kThrottled,    // the server kept asking to slow down
  kDevice,       // a GPU or its driver
  kInternal,     // a defect of this library
  kPackage,      // an optional package that this needs is not installed
  kFormat,       // the content of a file is not of its format
};

// Stable lower-case name of `code` ("not_found").
STREAMER_EXPORT const char* code_name(Code code) noexcept;

// The kind of failure of a device.
enum class DeviceFault : int {
  kNone = 0,
  kNoDevice,  // no driver, or it sees no device
  kOrdinal,   // no device of that number
  kTransfer,  // a copy to the device
};

// Everything known about a failure. Strings are empty and numbers are 0 when they do not apply.
struct STREAMER_EXPORT ErrorDetail {
  std::string message;  // the failure, without the content of other fields
  std::string path;     // as the caller gave it, without secrets
  bool has_range = false;
  std::uint64_t offset = 0;  // of the byte range, in the object
  std::uint64_t size = 0;
  int os_error = 0;  // errno
  int http_status = 0;
  DeviceFault device_fault = DeviceFault::kNone;
  std::string server_code;  // e.g. NoSuchKey
  std::string server_message;
  std::string request_id;
  std::string endpoint;  // the URL that was asked, and its source:
                         // "http://10.0.0.1:9000 (AWS_ENDPOINT_URL)"
  std::string identity;  // the credentials that were used, and their source; never a secret
  std::string hint;      // the remedy
  int attempts = 0;      // number of tries, if more than one
};

// Thread-compatible value. A successful status is one null pointer.
class [[nodiscard]] STREAMER_EXPORT Status {
 public:
  Status() noexcept = default;  // ok
  Status(const Status& other) { *this = other; }
  Status(Status&&) noexcept = default;
  Status& operator=(const Status& other);
  Status& operator=(Status&&) noexcept = default;

  static Status error(Code code, std::string message);

  // Builders: each is without effect on an ok status; path, range, fault, endpoint and hint keep a
  // value that is set.
  Status&& with_path(std::string path) &&;
  Status&& with_range(std::uint64_t offset, std::uint64_t size) &&;
  Status&& with_errno(int os_error) &&;
  Status&& with_http(int http_status, std::string server_code, std::string server_message,
                     std::string request_id) &&;
  Status&& with_device_fault(DeviceFault fault) &&;
  Status&& with_endpoint(std::string endpoint) &&;
  Status&& with_identity(std::string identity) &&;
  Status&& with_hint(std::string hint) &&;
  Status&& with_attempts(int attempts) &&;

  bool ok() const noexcept { return rep_ == nullptr; }
  explicit operator bool() const noexcept { return ok(); }
  Code code() const noexcept;
  const ErrorDetail& detail() const noexcept;  // of an ok status: all empty
  std::string to_string() const;               // one line for people

 private:
  struct Rep {
    Code code;
    ErrorDetail detail;
  };
  std::unique_ptr<Rep> rep_;
};

// A value, or a status with the reason if there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT: implicit by design
  Result(Status status) : state_(std::move(status)) {}  // NOLINT: implicit by design
  bool ok() const noexcept { return std::holds_alternative<T>(state_); }
  explicit operator bool() const noexcept { return ok(); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace streamer

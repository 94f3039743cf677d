#include "streamer/status.h"

#include <string>
#include <system_error>

#include "base/shown_text.h"

namespace streamer {

namespace {

// Bytes of a server's text that an error keeps.
constexpr std::size_t kServerText = 512;
constexpr std::size_t kServerWord = 128;

}  // namespace

const char* code_name(Code code) noexcept {
  switch (code) {
    case Code::kOk: return "ok";
    case Code::kInvalid: return "invalid";
    case Code::kNotFound: return "not_found";
    case Code::kPermission: return "permission";
    case Code::kIo: return "io";
    case Code::kShortRead: return "short_read";
    case Code::kChanged: return "changed";
    case Code::kMemoryLimit: return "memory_limit";
    case Code::kOutOfMemory: return "out_of_memory";
    case Code::kTimeout: return "timeout";
    case Code::kCancelled: return "cancelled";
    case Code::kUnsupported: return "unsupported";
    case Code::kNetwork: return "network";
    case Code::kCredentials: return "credentials";
    case Code::kThrottled: return "throttled";
    case Code::kDevice: return "device";
    case Code::kInternal: return "internal";
    case Code::kPackage: return "package";
    case Code::kFormat: return "format";
  }
  return "unknown";
}

Status& Status::operator=(const Status& other) {
  if (this != &other) rep_ = other.rep_ ? std::make_unique<Rep>(*other.rep_) : nullptr;
  return *this;
}

// The parameters are values, as the header declares them: they are a part of the ABI.
// NOLINTBEGIN(performance-unnecessary-value-param)
Status Status::error(Code code, std::string message) {
  Status status;
  status.rep_ = std::make_unique<Rep>();
  status.rep_->code = code;
  status.rep_->detail.message = shown_text(message);
  return status;
}

Status&& Status::with_path(std::string path) && {
  if (rep_ && rep_->detail.path.empty()) rep_->detail.path = mask_secrets(path);
  return std::move(*this);
}

Status&& Status::with_range(std::uint64_t offset, std::uint64_t size) && {
  if (rep_ && !rep_->detail.has_range) {
    rep_->detail.has_range = true;
    rep_->detail.offset = offset;
    rep_->detail.size = size;
  }
  return std::move(*this);
}

Status&& Status::with_errno(int os_error) && {
  if (rep_) rep_->detail.os_error = os_error;
  return std::move(*this);
}

Status&& Status::with_http(int http_status, std::string server_code, std::string server_message,
                           std::string request_id) && {
  if (rep_) {
    rep_->detail.http_status = http_status;
    rep_->detail.server_code = shown_text(cut_text(server_code, kServerWord));
    rep_->detail.server_message = shown_text(cut_text(server_message, kServerText));
    rep_->detail.request_id = shown_text(cut_text(request_id, kServerWord));
  }
  return std::move(*this);
}

Status&& Status::with_device_fault(DeviceFault fault) && {
  if (rep_ && rep_->detail.device_fault == DeviceFault::kNone) rep_->detail.device_fault = fault;
  return std::move(*this);
}

Status&& Status::with_endpoint(std::string endpoint) && {
  if (rep_ && rep_->detail.endpoint.empty()) rep_->detail.endpoint = shown_text(endpoint);
  return std::move(*this);
}

Status&& Status::with_identity(std::string identity) && {
  if (rep_) rep_->detail.identity = shown_text(identity);
  return std::move(*this);
}

Status&& Status::with_hint(std::string hint) && {
  if (rep_ && rep_->detail.hint.empty() && !hint.empty()) rep_->detail.hint = shown_text(hint);
  return std::move(*this);
}

// NOLINTEND(performance-unnecessary-value-param)

Status&& Status::with_attempts(int attempts) && {
  if (rep_) rep_->detail.attempts = attempts;
  return std::move(*this);
}

Code Status::code() const noexcept { return rep_ ? rep_->code : Code::kOk; }

const ErrorDetail& Status::detail() const noexcept {
  // For threads that outlive static objects. Made once; if there is no memory for it, the process
  // ends.
  static const auto* const kNone = new ErrorDetail;  // NOLINT(bugprone-unhandled-exception-at-new)
  return rep_ ? rep_->detail : *kNone;
}

std::string Status::to_string() const {
  if (ok()) return "ok";
  const ErrorDetail& d = rep_->detail;
  std::string text;
  if (!d.path.empty()) text += escape_controls(d.path) + ": ";
  text += d.message;
  if (d.has_range) {
    text +=
        " [bytes " + std::to_string(d.offset) + " to " + std::to_string(d.offset + d.size) + "]";
  }
  if (d.os_error != 0) {
    text += " (errno " + std::to_string(d.os_error) + ": " +
            std::generic_category().message(d.os_error) + ")";
  }
  if (d.http_status != 0) {
    text += " (HTTP " + std::to_string(d.http_status);
    if (!d.server_code.empty()) text += " " + d.server_code;
    if (!d.server_message.empty()) text += ": " + d.server_message;
    if (!d.request_id.empty()) text += ", request id " + d.request_id;
    text += ")";
  }
  if (d.attempts > 1) text += " after " + std::to_string(d.attempts) + " attempts";
  if (!d.endpoint.empty()) text += "; endpoint: " + d.endpoint;
  if (!d.identity.empty()) text += "; identity: " + d.identity;
  if (!d.hint.empty()) text += ". " + d.hint;
  return text;
}

}  // namespace streamer

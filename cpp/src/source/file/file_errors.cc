#include "source/file/file_errors.h"

#include <cerrno>

#include "base/system.h"
#include "streamer/types.h"

namespace streamer {
namespace {

// The probable error of a path at which there is nothing.
std::string hint_of_missing(const std::string& path) {
  const std::size_t slash = path.find('/');
  if (slash != std::string::npos && slash > 0 && path[slash - 1] == ':') {
    const std::string uri = std::string(path).insert(slash, "/");
    const Result<SourceKind> kind = source_kind_of(uri);
    if (kind.ok() && *kind != SourceKind::kFile) return "Write two slashes: " + uri;
  }
  if (path.find_first_of("*?[") != std::string::npos) {
    return "A pattern is not expanded here; list_checkpoint() expands it";
  }
  return "Check the path, and that the volume is mounted";
}

}  // namespace

Status file_error(const std::string& what, const std::string& path, int os_error) {
  Code code = Code::kIo;
  std::string hint;
  switch (os_error) {
    case ENOENT:
    case ENOTDIR:
      code = Code::kNotFound;
      hint = hint_of_missing(path);
      break;
    case EACCES:
    case EPERM:
      code = Code::kPermission;
      hint = "Check the owner and the mode of the file and of the directories above it";
      break;
    case EISDIR:
      code = Code::kInvalid;
      hint = "Pass a file; list_safetensors() returns those in a directory";
      break;
    case EMFILE:
    case ENFILE: hint = kRaiseDescriptorLimit; break;
    case ESTALE:
      code = Code::kChanged;
      hint = "The file was removed or replaced on the server";
      break;
    case ENOMEM: code = Code::kOutOfMemory; break;
    case EIO: hint = "The storage failed: see the kernel's log (dmesg) and check the device"; break;
    default: break;
  }
  return Status::error(code, what).with_path(path).with_errno(os_error).with_hint(std::move(hint));
}

Status strategy_error(const std::string& what, int os_error) {
  Status status = Status::error(Code::kUnsupported, what);
  if (os_error != 0) status = std::move(status).with_errno(os_error);
  return std::move(status).with_hint(
      "Name a strategy to fall back to (direct,buffered), or choose auto");
}

}  // namespace streamer

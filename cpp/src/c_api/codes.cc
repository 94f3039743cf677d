#include "c_api/codes.h"

#include <cerrno>

namespace streamer::c_api {
namespace {

int unsupported(SourceKind kind, DeviceType device, int os_error) {
  if (kind == SourceKind::kFile && os_error != 0) return RUNAI_FILE_STREAMER_STRATEGY_FAILED;
  if (device == DeviceType::kCuda) return RUNAI_FILE_STREAMER_NO_DEVICE;
#ifdef STREAMER_OBJECT_STORAGE
  // A server without a feature that a read needs.
  if (kind != SourceKind::kFile) return RUNAI_FILE_STREAMER_FILE_ACCESS;
#endif
  switch (kind) {
    case SourceKind::kS3: return RUNAI_FILE_STREAMER_S3_NOT_SUPPORTED;
    case SourceKind::kGcs: return RUNAI_FILE_STREAMER_GCS_NOT_SUPPORTED;
    case SourceKind::kAzure: return RUNAI_FILE_STREAMER_AZURE_NOT_SUPPORTED;
    // For files, nothing else can be unsupported.
    case SourceKind::kFile: return RUNAI_FILE_STREAMER_STRATEGY_UNAVAILABLE;
    case SourceKind::kHttp:
    case SourceKind::kHub: break;
  }
  return RUNAI_FILE_STREAMER_INVALID;
}

int code_of_fault(DeviceFault fault) {
  switch (fault) {
    case DeviceFault::kNoDevice: return RUNAI_FILE_STREAMER_NO_DEVICE;
    case DeviceFault::kOrdinal: return RUNAI_FILE_STREAMER_DEVICE_ORDINAL;
    case DeviceFault::kTransfer: return RUNAI_FILE_STREAMER_TRANSFER;
    case DeviceFault::kNone: break;
  }
  return RUNAI_FILE_STREAMER_DRIVER;
}

}  // namespace

int code_of(const Status& status, SourceKind kind, DeviceType device) {
  if (status.ok()) return RUNAI_FILE_STREAMER_SUCCESS;
  const int os_error = status.detail().os_error;
  if (os_error == EMFILE || os_error == ENFILE) return RUNAI_FILE_STREAMER_FD_LIMIT;
  if (status.detail().device_fault != DeviceFault::kNone) {
    return code_of_fault(status.detail().device_fault);
  }
  switch (status.code()) {
    case Code::kOk: return RUNAI_FILE_STREAMER_SUCCESS;
    case Code::kInvalid:
    case Code::kFormat: return RUNAI_FILE_STREAMER_INVALID;
    case Code::kNotFound:
    case Code::kPermission:
    case Code::kCredentials:
    case Code::kChanged: return RUNAI_FILE_STREAMER_FILE_ACCESS;
    case Code::kPackage: return RUNAI_FILE_STREAMER_BACKEND_LOAD;
    case Code::kIo:
      return status.detail().http_status >= 500 ? RUNAI_FILE_STREAMER_RETRYABLE
                                                : RUNAI_FILE_STREAMER_FILE_ACCESS;
    case Code::kShortRead:
      return kind == SourceKind::kFile ? RUNAI_FILE_STREAMER_EOF : RUNAI_FILE_STREAMER_SHORT_OBJECT;
    case Code::kMemoryLimit: return RUNAI_FILE_STREAMER_INVALID;
    case Code::kOutOfMemory: return RUNAI_FILE_STREAMER_ALLOCATION;
    case Code::kCancelled: return RUNAI_FILE_STREAMER_FINISHED;
    case Code::kUnsupported: return unsupported(kind, device, os_error);
    case Code::kTimeout:
    case Code::kNetwork:
    case Code::kThrottled: return RUNAI_FILE_STREAMER_RETRYABLE;
    case Code::kDevice: return RUNAI_FILE_STREAMER_DRIVER;
    case Code::kInternal: return RUNAI_FILE_STREAMER_UNKNOWN;
  }
  return RUNAI_FILE_STREAMER_UNKNOWN;
}

const char* describe(int code) {
  switch (code) {
    case RUNAI_FILE_STREAMER_SUCCESS: return "Success";
    case RUNAI_FILE_STREAMER_FINISHED: return "Finished: the streamer is being ended";
    case RUNAI_FILE_STREAMER_FILE_ACCESS: return "File access error";
    case RUNAI_FILE_STREAMER_EOF: return "End of file reached before the end of the range";
    case RUNAI_FILE_STREAMER_S3_NOT_SUPPORTED: return "S3 is not supported by this build";
    case RUNAI_FILE_STREAMER_GLIBC: return "The C library is not supported";
    case RUNAI_FILE_STREAMER_FD_LIMIT: return "No file descriptors are left (ulimit -n)";
    case RUNAI_FILE_STREAMER_INVALID: return "Invalid argument or setting";
    case RUNAI_FILE_STREAMER_EMPTY_REQUEST: return "Empty request: it has no ranges";
    case RUNAI_FILE_STREAMER_BUSY: return "Busy: another thread is in this function";
    case RUNAI_FILE_STREAMER_CA_FILE_NOT_FOUND: return "CA certificate file not found";
    case RUNAI_FILE_STREAMER_UNKNOWN: return "Unknown error";
    case RUNAI_FILE_STREAMER_BACKEND_LOAD: return "The storage backend can't be loaded";
    case RUNAI_FILE_STREAMER_GCS_NOT_SUPPORTED:
      return "Google Cloud Storage is not supported by this build";
    case RUNAI_FILE_STREAMER_AZURE_NOT_SUPPORTED:
      return "Azure Blob Storage is not supported by this build";
    case RUNAI_FILE_STREAMER_SHORT_OBJECT: return "The object ended before the end of the range";
    case RUNAI_FILE_STREAMER_TIMED_OUT: return "Timed out";
    case RUNAI_FILE_STREAMER_MIXED_BACKENDS:
      return "Paths of different kinds of storage in one request";
    case RUNAI_FILE_STREAMER_CREDENTIALS_SET: return "Other credentials are already set";
    case RUNAI_FILE_STREAMER_RETRYABLE: return "Storage or network error that may pass";
    case RUNAI_FILE_STREAMER_STRATEGY_SET: return "Another file system strategy is already set";
    case RUNAI_FILE_STREAMER_STRATEGY_UNAVAILABLE: return "File system strategy not available";
    case RUNAI_FILE_STREAMER_STRATEGY_FAILED: return "File system strategy failed";
    case RUNAI_FILE_STREAMER_DEVICE_TYPE: return "Device type not supported";
    case RUNAI_FILE_STREAMER_NO_DEVICE: return "No usable device";
    case RUNAI_FILE_STREAMER_DEVICE_ORDINAL: return "No device of that number";
    case RUNAI_FILE_STREAMER_ALLOCATION: return "Memory was refused";
    case RUNAI_FILE_STREAMER_TRANSFER: return "A copy to the device failed";
    case RUNAI_FILE_STREAMER_DRIVER: return "The device's driver failed";
    case RUNAI_FILE_STREAMER_INTERRUPTED: return "Interrupted by the callback of the program";
    default: return "Not a code of this library";
  }
}

}  // namespace streamer::c_api

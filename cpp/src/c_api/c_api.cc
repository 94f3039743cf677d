// The functions of runai_file_streamer.h: they check arguments, catch exceptions, and convert
// types.

#if __has_include(<gnu/libc-version.h>)
#include <gnu/libc-version.h>
#endif

#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "c_api/codes.h"
#include "c_api/direct_block.h"
#include "c_api/handle.h"
#include "c_api/pattern.h"
#include "c_api/report.h"
#include "streamer/runai_file_streamer.h"
#include "streamer/stream.h"

namespace {

using streamer::Device;
using streamer::DeviceType;
using streamer::ListedObject;
using streamer::Result;
using streamer::SourceKind;
using streamer::c_api::CallResult;
using streamer::c_api::FileRequest;
using streamer::c_api::guarded;
using streamer::c_api::Handle;
using streamer::c_api::invalid;
using streamer::c_api::last_error;
using streamer::c_api::Response;

// The oldest C library that this library supports.
constexpr int kOldestGlibc[] = {2, 28};

CallResult check_c_library() {
#ifdef __GLIBC__
  int major = 0;
  int minor = 0;
  const char* const version = gnu_get_libc_version();
  if (std::sscanf(version, "%d.%d", &major, &minor) == 2 &&
      (major < kOldestGlibc[0] || (major == kOldestGlibc[0] && minor < kOldestGlibc[1]))) {
    return {RUNAI_FILE_STREAMER_GLIBC,
            std::string("start: the C library is glibc ") + version + "; 2.28 is the oldest"};
  }
#endif
  return {};
}

Handle* handle_of(void* streamer) { return static_cast<Handle*>(streamer); }

bool has_null(const char** strings, unsigned count) {
  if (count > 0 && strings == nullptr) return true;
  for (unsigned i = 0; i < count; ++i) {
    if (strings[i] == nullptr) return true;
  }
  return false;
}

CallResult credentials(void* streamer, const char** keys, const char** values, unsigned count) {
  if (streamer == nullptr || has_null(keys, count) || has_null(values, count)) {
    return invalid("set_credentials: null argument");
  }
  std::map<std::string, std::string> given;
  for (unsigned i = 0; i < count; ++i) {
    given[keys[i]] = values[i];
  }
  return handle_of(streamer)->set_credentials(std::move(given));
}

struct RangeArrays {
  const uint32_t* counts;
  const size_t* offsets;
  const size_t* sizes;
  void* const* destinations;
};

// The request of `count` files as types of the engine.
CallResult collect(uint32_t count, const char** paths, const RangeArrays& arrays,
                   std::vector<FileRequest>* files) {
  size_t at = 0;
  for (uint32_t i = 0; i < count; ++i) {
    FileRequest file;
    file.path = paths[i];
    file.ranges.reserve(arrays.counts[i]);
    for (uint32_t j = 0; j < arrays.counts[i]; ++j, ++at) {
      const size_t offset = arrays.offsets[at];
      const size_t size = arrays.sizes[at];
      if (size > std::numeric_limits<size_t>::max() - offset) {
        return invalid("request: a range's offset and size overflow");
      }
      if (size > 0 && arrays.destinations[at] == nullptr) {
        return invalid("request: a range has no destination");
      }
      file.ranges.push_back({offset, size, arrays.destinations[at], 1});
    }
    files->push_back(std::move(file));
  }
  return {};
}

CallResult request(void* streamer, uint64_t* submission, uint32_t num_files, const char** paths,
                   const RangeArrays& arrays, RunaiFileStreamerDevice device) {
  if (streamer == nullptr || submission == nullptr) return invalid("request: null argument");
  if (has_null(paths, num_files) || (num_files > 0 && arrays.counts == nullptr)) {
    return invalid("request: null argument");
  }
  uint64_t ranges = 0;
  for (uint32_t i = 0; i < num_files; ++i) ranges += arrays.counts[i];
  if (ranges == 0) return handle_of(streamer)->request({}, {}, submission);
  if (arrays.offsets == nullptr || arrays.sizes == nullptr || arrays.destinations == nullptr) {
    return invalid("request: null argument");
  }
  if (device.type != RUNAI_FILE_STREAMER_DEVICE_CPU &&
      device.type != RUNAI_FILE_STREAMER_DEVICE_CUDA) {
    return {RUNAI_FILE_STREAMER_DEVICE_TYPE,
            "request: device type " + std::to_string(device.type) + " is neither CPU (0) nor CUDA"};
  }
  const bool cuda = device.type == RUNAI_FILE_STREAMER_DEVICE_CUDA;
  if (cuda && device.id < 0) {
    return {RUNAI_FILE_STREAMER_DEVICE_ORDINAL,
            "request: no CUDA device " + std::to_string(device.id)};
  }
  std::vector<FileRequest> files;
  if (CallResult bad = collect(num_files, paths, arrays, &files); bad.code != 0) return bad;
  const Device target{cuda ? DeviceType::kCuda : DeviceType::kHost, cuda ? device.id : 0};
  return handle_of(streamer)->request(std::move(files), target, submission);
}

bool any_matches(const char** patterns, unsigned count, std::string_view text) {
  for (unsigned i = 0; i < count; ++i) {
    if (streamer::c_api::matches(patterns[i], text)) return true;
  }
  return false;
}

struct Filter {
  const char** allow;
  unsigned num_allow;
  const char** ignore;
  unsigned num_ignore;

  bool wants(const std::string& path) const {
    const std::string key = streamer::object_key(path);
    return (num_allow == 0 || any_matches(allow, num_allow, key)) &&
           !any_matches(ignore, num_ignore, key);
  }
};

CallResult list_files(void* streamer, const char* prefix, bool recursive, const Filter& filter,
                      RunaiFileStreamerFileListCallback found, void* user) {
  if (streamer == nullptr || prefix == nullptr || found == nullptr ||
      has_null(filter.allow, filter.num_allow) || has_null(filter.ignore, filter.num_ignore)) {
    return invalid("list_files: null argument");
  }
  const Result<SourceKind> kind = streamer::source_kind_of(prefix);
  if (!kind.ok()) {
    return {streamer::c_api::code_of(kind.status(), SourceKind::kFile), kind.status().to_string()};
  }
  std::vector<ListedObject> objects;
  CallResult listed = handle_of(streamer)->list(prefix, *kind, recursive, &objects);
  if (listed.code != 0) return listed;
  for (const ListedObject& object : objects) {
    if (filter.wants(object.path)) found(object.path.c_str(), object.size, user);
  }
  return {};
}

}  // namespace

extern "C" {

int runai_file_streamer_start(void** streamer) {
  return guarded([&]() -> CallResult {
    if (streamer == nullptr) return invalid("start: null argument");
    if (CallResult old = check_c_library(); old.code != 0) return old;
    *streamer = new Handle;
    return {};
  });
}

void runai_file_streamer_end(void* streamer) {
  if (streamer == nullptr) return;
  Handle::end(handle_of(streamer));
}

int runai_file_streamer_set_credentials(void* streamer, const char** keys, const char** values,
                                        unsigned count) {
  return guarded([&] { return credentials(streamer, keys, values, count); });
}

int runai_file_streamer_request(void* streamer, uint64_t* submission_id, uint32_t num_files,
                                const char** paths, const uint32_t* num_ranges,
                                const size_t* range_offsets, const size_t* range_sizes,
                                void* const* range_dsts, RunaiFileStreamerDevice device) {
  return guarded([&] {
    return request(streamer, submission_id, num_files, paths,
                   {num_ranges, range_offsets, range_sizes, range_dsts}, device);
  });
}

int runai_file_streamer_response(void* streamer, uint64_t* submission_id, uint32_t* file_index,
                                 uint32_t* range_index, int* submission_done, unsigned timeout_ms) {
  return guarded([&]() -> CallResult {
    if (streamer == nullptr || submission_id == nullptr || file_index == nullptr ||
        range_index == nullptr || submission_done == nullptr) {
      return invalid("response: null argument");
    }
    Response response;
    bool taken = false;
    CallResult result = handle_of(streamer)->respond(timeout_ms, &response, &taken);
    if (taken) {
      *submission_id = response.submission;
      *file_index = response.file;
      *range_index = response.range;
      *submission_done = response.last ? 1 : 0;
    }
    return result;
  });
}

const char* runai_file_streamer_response_str(int code) { return streamer::c_api::describe(code); }

int runai_file_streamer_list_files(void* streamer, const char* prefix, int recursive,
                                   const char** allow, unsigned num_allow, const char** ignore,
                                   unsigned num_ignore, RunaiFileStreamerFileListCallback found,
                                   void* user) {
  return guarded([&] {
    return list_files(streamer, prefix, recursive != 0, {allow, num_allow, ignore, num_ignore},
                      found, user);
  });
}

int runai_file_streamer_probe_direct_block_size(void* streamer, const char** paths,
                                                unsigned num_paths, size_t* block) {
  return guarded([&]() -> CallResult {
    if (streamer == nullptr || block == nullptr || has_null(paths, num_paths)) {
      return invalid("probe_direct_block_size: null argument");
    }
    return streamer::c_api::probe_direct_block({paths, num_paths}, block);
  });
}

int runai_file_streamer_set_fs_strategy(void* streamer, const char* candidates) {
  return guarded([&]() -> CallResult {
    if (streamer == nullptr || candidates == nullptr) {
      return invalid("set_fs_strategy: null argument");
    }
    return handle_of(streamer)->set_strategy(candidates);
  });
}

const char* runai_file_streamer_last_error(void) { return last_error().c_str(); }

int runai_file_streamer_set_interrupt(void* streamer,
                                      RunaiFileStreamerInterruptCallback interrupted, void* user) {
  return guarded([&]() -> CallResult {
    if (streamer == nullptr) return invalid("set_interrupt: null argument");
    return handle_of(streamer)->set_interrupt({interrupted, user});
  });
}

const char* runai_file_streamer_version(void) { return streamer::version(); }

}  // extern "C"

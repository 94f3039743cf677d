// How every function of the C ABI reports its result and catches exceptions.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "streamer/runai_file_streamer.h"

namespace streamer::c_api {

// The return value of a function of the C ABI, and the text for runai_file_streamer_last_error().
struct CallResult {
  int code = RUNAI_FILE_STREAMER_SUCCESS;
  std::string message;
};

std::string& last_error();  // of this thread
int report(const CallResult& result);

inline CallResult invalid(const char* message) { return {RUNAI_FILE_STREAMER_INVALID, message}; }

// Runs `body` and reports its result. Must not throw if memory runs out.
template <typename Body>
int guarded(Body body) noexcept {
  try {
    return report(body());
  } catch (const std::bad_alloc&) {
    last_error().clear();
    return RUNAI_FILE_STREAMER_ALLOCATION;
  } catch (const std::exception& error) {
    try {
      return report({RUNAI_FILE_STREAMER_UNKNOWN, error.what()});
    } catch (...) {
      return RUNAI_FILE_STREAMER_UNKNOWN;
    }
  } catch (...) {
    return RUNAI_FILE_STREAMER_UNKNOWN;
  }
}

}  // namespace streamer::c_api

#include "c_api/report.h"

namespace streamer::c_api {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

int report(const CallResult& result) {
  last_error() = result.code == RUNAI_FILE_STREAMER_SUCCESS ? std::string() : result.message;
  return result.code;
}

}  // namespace streamer::c_api

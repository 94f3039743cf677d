#include "refusals.h"

#include <dlfcn.h>

namespace {

Refusals refusals;

template <typename Function>
Function next(Function, const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

Refusals& refuse() { return refusals; }

// The library's calls of these come here, since an executable's symbols are found first.
#pragma GCC visibility push(default)
extern "C" {

const char* gnu_get_libc_version();
const char* gnu_get_libc_version() {
  if (refusals.glibc != nullptr) return refusals.glibc;
  return next(&gnu_get_libc_version, "gnu_get_libc_version")();
}

int curl_global_init(long flags);
int curl_global_init(long flags) {
  constexpr int kFailedInit = 2;
  if (refusals.libcurl) return kFailedInit;
  return next(&curl_global_init, "curl_global_init")(flags);
}
}
#pragma GCC visibility pop

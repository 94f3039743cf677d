// What the system or a library under this one can refuse, on demand.
#pragma once

struct Refusals {
  const char* glibc = nullptr;  // the version that the C library says it is
  bool libcurl = false;         // it can't be initialised
};

Refusals& refuse();

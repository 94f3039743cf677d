// Pages of views that their files have lost, as a file does that is truncated.
#pragma once

#include <cstdint>

namespace streamer {

// The number of times that a thread touched such a page and was given zeros. Object::unchanged() of
// that file is an error from then on.
std::uint64_t lost_page_count();

// Keeps noticing them, even if the program has installed signal handlers since. Cheap.
void renew_view_guards();

}  // namespace streamer

// Pages of views that their files have lost, as a file does that is truncated.
#pragma once

#include <cstdint>

namespace streamer {

// How often a thread of the process touched such a page and was given zeros. Object::unchanged() of
// that file is an error from then on.
std::uint64_t lost_page_count();

// Keeps noticing them, whatever signal handlers the program has installed since. Cheap.
void renew_view_guards();

}  // namespace streamer

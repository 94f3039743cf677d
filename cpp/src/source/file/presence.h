// Announcements between streams, over processes, that they read the same file.
#pragma once

namespace streamer {

// Announces that `fd` is read: a shared lock (of the open file) on a byte far behind its end.
// Nothing waits for it; it ends with the descriptor.
void announce_reader(int fd);

// True if another open file has announced that it is read.
bool has_other_readers(int fd);

}  // namespace streamer

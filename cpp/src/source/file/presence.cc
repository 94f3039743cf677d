#include "source/file/presence.h"

#include <fcntl.h>
#include <sys/types.h>

namespace streamer {
namespace {

struct flock presence_lock(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = off_t{1} << 62;
  lock.l_len = 1;
  return lock;
}

}  // namespace

void announce_reader(int fd) {
  struct flock lock = presence_lock(F_RDLCK);
  fcntl(fd, F_OFD_SETLK, &lock);
}

bool has_other_readers(int fd) {
  struct flock lock = presence_lock(F_WRLCK);
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace streamer

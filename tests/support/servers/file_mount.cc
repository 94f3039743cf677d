// A FUSE file system of one directory of files, read-only, that is slow as mounts of storage
// elsewhere are: file_mount SOURCE MOUNTPOINT OPTION=NUMBER...
//
//   read_ms    the time of each read before its bytes come
//   jump_ms    the added time of a read that does not follow the one before it
//   window     bytes before and behind its end in which a read follows it all the same
//   per_file   1: a file has one position; 0: each of its descriptors has
//   rate       bytes per second of a position; 0: any
//   hang_from  reads from this byte on get no answer; 0: all get one
//   direct     0: files cannot be opened with O_DIRECT
//
// It runs until it is ended. The file STATS in the mount tells its counters, as JSON.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kMaxRead = 1 << 20;
constexpr std::uint64_t kStatsNode = ~std::uint64_t{0};
constexpr int kThreads = 160;

struct Position {
  std::mutex mutex;
  std::uint64_t next = 0;
};

struct Handle {
  int fd = -1;
  std::shared_ptr<Position> position;
};

std::string source;
std::map<std::string, double> options = {{"read_ms", 0},  {"jump_ms", 0}, {"window", 0},
                                         {"per_file", 0}, {"rate", 0},    {"direct", 1},
                                         {"hang_from", 0}};
int device = -1;

std::mutex mutex;
std::vector<std::string> names = {"", ""};  // by node; the root is 1
std::map<std::string, std::uint64_t> nodes;
std::map<std::uint64_t, Handle> handles;
std::map<std::string, std::shared_ptr<Position>> positions;
std::uint64_t next_handle = 1;

std::atomic<std::uint64_t> reads{0};
std::atomic<std::uint64_t> bytes{0};
std::atomic<std::uint64_t> jumps{0};
std::atomic<std::uint64_t> opens{0};
std::atomic<std::uint64_t> direct_opens{0};
std::atomic<int> in_flight{0};
std::atomic<int> most_in_flight{0};

void pause(double milliseconds) {
  if (milliseconds <= 0) return;
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds));
}

void reply(std::uint64_t unique, int os_error, const void* body = nullptr, std::size_t size = 0) {
  fuse_out_header header{};
  header.len = static_cast<std::uint32_t>(sizeof(header) + size);
  header.error = -os_error;
  header.unique = unique;
  const iovec parts[] = {{&header, sizeof(header)}, {const_cast<void*>(body), size}};
  if (writev(device, parts, size > 0 ? 2 : 1) < 0 && errno != ENOENT) std::perror("reply");
}

std::string stats() {
  char text[256];
  std::snprintf(text, sizeof(text),
                "{\"reads\": %lu, \"bytes\": %lu, \"jumps\": %lu, \"opens\": %lu, "
                "\"direct_opens\": %lu, \"most_in_flight\": %d}",
                reads.load(), bytes.load(), jumps.load(), opens.load(), direct_opens.load(),
                most_in_flight.load());
  return text;
}

std::string path_of(std::uint64_t node) {
  const std::lock_guard lock(mutex);
  return node < names.size() ? source + "/" + names[node] : source;
}

int attributes_of(std::uint64_t node, fuse_attr* found) {
  struct stat info {};
  if (node == kStatsNode) {
    info.st_mode = S_IFREG | 0444;
    info.st_size = 256;
  } else if (stat(path_of(node).c_str(), &info) != 0) {
    return errno;
  }
  found->ino = node;
  found->size = static_cast<std::uint64_t>(info.st_size);
  found->blocks = (found->size + 511) / 512;
  found->mtime = static_cast<std::uint64_t>(info.st_mtim.tv_sec);
  found->mtimensec = static_cast<std::uint32_t>(info.st_mtim.tv_nsec);
  found->ctime = found->mtime;
  found->mode = info.st_mode;
  found->nlink = 1;
  found->blksize = 4096;
  return 0;
}

void look_up(std::uint64_t unique, const std::string& name) {
  fuse_entry_out entry{};
  if (name == "STATS") {
    entry.nodeid = kStatsNode;
  } else {
    const std::lock_guard lock(mutex);
    const auto [known, added] = nodes.emplace(name, names.size());
    if (added) names.push_back(name);
    entry.nodeid = known->second;
  }
  entry.entry_valid = entry.attr_valid = entry.nodeid == kStatsNode ? 0 : 1;
  reply(unique, attributes_of(entry.nodeid, &entry.attr), &entry, sizeof(entry));
}

void open_file(std::uint64_t unique, std::uint64_t node, int flags) {
  fuse_open_out opened{};
  if (node == kStatsNode) {
    opened.open_flags = FOPEN_DIRECT_IO;
    return reply(unique, 0, &opened, sizeof(opened));
  }
  ++opens;
  if ((flags & O_DIRECT) != 0) {
    ++direct_opens;
    if (options["direct"] == 0) return reply(unique, EINVAL);
  }
  const std::string path = path_of(node);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return reply(unique, errno);
  {
    const std::lock_guard lock(mutex);
    std::shared_ptr<Position> position;
    if (options["per_file"] != 0) position = positions[path];
    if (!position) position = std::make_shared<Position>();
    if (options["per_file"] != 0) positions[path] = position;
    opened.open_flags = FOPEN_KEEP_CACHE;
    opened.fh = next_handle++;
    handles[opened.fh] = {fd, position};
  }
  reply(unique, 0, &opened, sizeof(opened));
}

void read_file(std::uint64_t unique, std::uint64_t node, const fuse_read_in& wanted,
               std::vector<char>* buffer) {
  if (node == kStatsNode) {
    std::string text = stats();
    text.resize(256, ' ');
    const std::size_t from = std::min<std::size_t>(wanted.offset, text.size());
    return reply(unique, 0, text.data() + from, text.size() - from);
  }
  Handle handle;
  {
    const std::lock_guard lock(mutex);
    handle = handles[wanted.fh];
  }
  ++reads;
  const int now = ++in_flight;
  int most = most_in_flight;
  while (now > most && !most_in_flight.compare_exchange_weak(most, now)) {
  }
  const double hang_from = options["hang_from"];
  if (hang_from > 0 && static_cast<double>(wanted.offset + wanted.size) > hang_from) return;
  pause(options["read_ms"]);
  if (options["jump_ms"] > 0 || options["rate"] > 0) {
    Position& position = *handle.position;
    const std::lock_guard one_at_a_time(position.mutex);
    const std::uint64_t end = wanted.offset + wanted.size;
    const std::uint64_t far = wanted.offset > position.next ? wanted.offset - position.next
                                                            : position.next - wanted.offset;
    const bool jump = static_cast<double>(far) > options["window"];
    if (jump) {
      ++jumps;
      pause(options["jump_ms"]);
    }
    position.next = jump ? end : std::max(end, position.next);
    if (options["rate"] > 0) pause(wanted.size / options["rate"] * 1e3);
  }
  const std::size_t size = std::min<std::size_t>(wanted.size, buffer->size());
  const ssize_t got = pread(handle.fd, buffer->data(), size, static_cast<off_t>(wanted.offset));
  --in_flight;
  if (got < 0) return reply(unique, errno);
  bytes += static_cast<std::uint64_t>(got);
  reply(unique, 0, buffer->data(), static_cast<std::size_t>(got));
}

void list(std::uint64_t unique, const fuse_read_in& wanted) {
  std::vector<char> found;
  DIR* const listed = opendir(source.c_str());
  std::uint64_t number = 0;
  while (const dirent* const entry = listed != nullptr ? readdir(listed) : nullptr) {
    if (++number <= wanted.offset) continue;
    const std::size_t length = std::strlen(entry->d_name);
    const std::size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length);
    if (found.size() + size > wanted.size) break;
    std::vector<char> record(size);
    auto* const item = reinterpret_cast<fuse_dirent*>(record.data());
    item->ino = number + 1;
    item->off = number;
    item->namelen = static_cast<std::uint32_t>(length);
    item->type = entry->d_type;
    std::memcpy(record.data() + FUSE_NAME_OFFSET, entry->d_name, length);
    found.insert(found.end(), record.begin(), record.end());
  }
  if (listed != nullptr) closedir(listed);
  reply(unique, 0, found.data(), found.size());
}

template <typename Body>
Body body_of(const std::vector<char>& request) {
  Body body{};
  const std::size_t size = std::min(sizeof(body), request.size() - sizeof(fuse_in_header));
  std::memcpy(&body, request.data() + sizeof(fuse_in_header), size);
  return body;
}

void serve(const std::vector<char>& request, std::vector<char>* buffer) {
  fuse_in_header header{};
  std::memcpy(&header, request.data(), sizeof(header));
  switch (header.opcode) {
    case FUSE_INIT: {
      const auto asked = body_of<fuse_init_in>(request);
      fuse_init_out answer{};
      answer.major = FUSE_KERNEL_VERSION;
      answer.minor = 31;
      answer.max_readahead = asked.max_readahead;
      answer.flags = asked.flags & (FUSE_ASYNC_READ | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS);
      answer.max_background = kThreads;
      answer.congestion_threshold = kThreads;
      answer.max_write = kMaxRead;
      answer.time_gran = 1;
      answer.max_pages = kMaxRead / 4096;
      return reply(header.unique, 0, &answer, sizeof(answer));
    }
    case FUSE_LOOKUP: return look_up(header.unique, request.data() + sizeof(fuse_in_header));
    case FUSE_GETATTR: {
      fuse_attr_out answer{};
      answer.attr_valid = 1;
      const int os_error = attributes_of(header.nodeid, &answer.attr);
      return reply(header.unique, os_error, &answer, os_error == 0 ? sizeof(answer) : 0);
    }
    case FUSE_OPEN:
      return open_file(header.unique, header.nodeid,
                       static_cast<int>(body_of<fuse_open_in>(request).flags));
    case FUSE_READ:
      return read_file(header.unique, header.nodeid, body_of<fuse_read_in>(request), buffer);
    case FUSE_OPENDIR: {
      const fuse_open_out answer{};
      return reply(header.unique, 0, &answer, sizeof(answer));
    }
    case FUSE_READDIR: return list(header.unique, body_of<fuse_read_in>(request));
    case FUSE_RELEASE: {
      const std::lock_guard lock(mutex);
      const auto known = handles.find(body_of<fuse_release_in>(request).fh);
      if (known != handles.end()) {
        close(known->second.fd);
        handles.erase(known);
      }
      return reply(header.unique, 0);
    }
    case FUSE_STATFS: {
      fuse_statfs_out answer{};
      answer.st.bsize = answer.st.frsize = 4096;
      answer.st.namelen = 255;
      return reply(header.unique, 0, &answer, sizeof(answer));
    }
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH: return reply(header.unique, 0);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: return;
    default: return reply(header.unique, ENOSYS);
  }
}

void work() {
  std::vector<char> room(kMaxRead + 65536);
  std::vector<char> buffer(kMaxRead);
  for (;;) {
    const ssize_t got = read(device, room.data(), room.size());
    if (got < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN)) continue;
    if (got < 0) std::exit(errno == ENODEV ? 0 : 1);
    serve(std::vector<char>(room.begin(), room.begin() + got), &buffer);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  source = arguments[1];
  for (int i = 3; i < count; ++i) {
    const std::string option = arguments[i];
    const std::size_t at = option.find('=');
    if (at == std::string::npos || options.count(option.substr(0, at)) == 0) return 2;
    options[option.substr(0, at)] = std::atof(option.c_str() + at + 1);
  }
  device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device < 0) {
    std::perror("/dev/fuse");
    return 3;
  }
  const std::string data =
      "fd=" + std::to_string(device) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
  if (mount("streamer", arguments[2], "fuse.streamer", MS_NOSUID | MS_NODEV | MS_RDONLY,
            data.c_str()) != 0) {
    std::perror("mount");
    return 3;
  }
  std::puts("ready");
  std::fflush(stdout);
  std::vector<std::thread> threads;
  for (int i = 1; i < kThreads; ++i) threads.emplace_back(work);
  work();
}

#include "source/file/file_reader.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/memory_units.h"
#include "base/segments.h"
#include "source/file/file_errors.h"

namespace streamer {
namespace {

// Most reads need it for the parts of pages at their ends only.
constexpr std::uint64_t kLeastBounceBytes = 64 * kKiB;
constexpr std::uint64_t kMostBounceBytes = kMiB;
constexpr std::uint64_t kShareOfBounce = 64;  // of the memory limit, for each reader
// A part of a later segment that is read straight into it, although it takes one more call.
constexpr std::uint64_t kWorthACall = 256 * kKiB;
constexpr std::size_t kMaxSegments = 1024;  // IOV_MAX

// A larger gap is passed over: a system call and the pages that it looks up cost as much as copying
// so many cached bytes. Past the page cache a device reads at its full speed in larger parts.
constexpr std::uint64_t kCachedGap = 4 * kKiB;
constexpr std::uint64_t kDirectGap = 128 * kKiB;

// Removes the first `bytes` of `segments`.
void consume(std::vector<iovec>* segments, std::uint64_t bytes) {
  auto it = segments->begin();
  while (it != segments->end() && bytes >= it->iov_len) {
    bytes -= it->iov_len;
    ++it;
  }
  segments->erase(segments->begin(), it);
  if (bytes > 0) segments->front() = behind(segments->front(), bytes);
}

void scatter(const std::byte* from, std::uint64_t bytes, std::vector<iovec>* segments) {
  while (bytes > 0) {
    iovec& first = segments->front();
    const std::uint64_t part = std::min<std::uint64_t>(bytes, first.iov_len);
    if (!is_gap(first)) std::memcpy(first.iov_base, from, part);
    from += part;
    bytes -= part;
    consume(segments, part);
  }
}

Status ended_early(const FileObject& file, std::uint64_t offset) {
  return Status::error(Code::kShortRead, "the file ended at byte " + std::to_string(offset) +
                                             ": it was truncated "
                                             "while it was read (it had " +
                                             std::to_string(file.size()) + " bytes)")
      .with_hint("Restore the file and load it again");
}

// `segments` with parts of `sink` for gaps: preadv() has to put their bytes somewhere.
std::vector<iovec> fill_gaps(const std::vector<iovec>& segments, std::span<std::byte> sink) {
  std::vector<iovec> filled;
  for (iovec segment : segments) {
    while (is_gap(segment)) {
      filled.push_back({sink.data(), std::min<std::size_t>(segment.iov_len, sink.size())});
      segment = behind(segment, filled.back().iov_len);
    }
    if (segment.iov_len > 0) filled.push_back(segment);
  }
  return filled;
}

// Has the kernel ask for [offset, offset + size) by requests that are in flight at once. For one
// call it asks for no more than it reads ahead.
void ask_for(int fd, std::uint64_t offset, std::uint64_t size, std::uint64_t request) {
  for (std::uint64_t at = 0; at < size; at += request) {
    posix_fadvise(fd, static_cast<off_t>(offset + at),
                  static_cast<off_t>(std::min(request, size - at)), POSIX_FADV_WILLNEED);
  }
}

// Reads through the page cache until `segments` is empty. `whole`: see ReadTrial::Setting.
Status read_buffered(const FileObject& file, std::uint64_t* offset, std::vector<iovec>* segments,
                     bool whole = false) {
  if (segments->empty()) return {};
  std::array<std::byte, kCachedGap> sink;  // NOLINT: its bytes are not used
  if (has_gap(*segments)) *segments = fill_gaps(*segments, sink);
  auto descriptor = file.borrow_for(*offset);
  if (!descriptor.ok()) return descriptor.status();
  if (whole) ask_for(descriptor->fd(), *offset, total_bytes(*segments), file.request_bytes());
  descriptor->set_position(*offset + total_bytes(*segments));
  while (!segments->empty()) {
    const int count = static_cast<int>(std::min(segments->size(), kMaxSegments));
    const ssize_t got =
        preadv(descriptor->fd(), segments->data(), count, static_cast<off_t>(*offset));
    if (got > 0) {
      *offset += static_cast<std::uint64_t>(got);
      consume(segments, static_cast<std::uint64_t>(got));
      continue;
    }
    if (got == 0) return ended_early(file, *offset);
    if (errno == EINTR) continue;
    return file_error("cannot read the file", file.path(), errno);
  }
  return {};
}

// Bytes at the start of `segment` that can be read from `offset` without a bounce buffer.
std::uint64_t direct_bytes(const iovec& segment, std::uint64_t offset, DirectIo io) {
  const bool aligned =
      !is_gap(segment) && is_aligned(offset, io.offset) && is_aligned(segment.iov_base, io.memory);
  return aligned ? round_down(segment.iov_len, io.offset) : 0;
}

// True if the rest behind the first `bytes` of `segments`, at `offset` of the file, can be read
// without a bounce buffer.
bool continues_directly(const std::vector<iovec>& segments, std::uint64_t bytes,
                        std::uint64_t offset, DirectIo io) {
  std::uint64_t least = 1;
  for (const iovec& segment : segments) {
    if (bytes < segment.iov_len) return direct_bytes(behind(segment, bytes), offset, io) >= least;
    bytes -= segment.iov_len;
    least = kWorthACall;
  }
  return false;
}

// The result of a direct read that the kernel refuses: ok, so that the rest is read otherwise.
Status refused(const FileObject& file, int os_error) {
  if (!file.strategy_only()) return {};
  return strategy_error("a read past the page cache (O_DIRECT) was refused", os_error);
}

}  // namespace

FileReader::~FileReader() {
  std::free(bounce_);
  if (budget_ != nullptr) budget_->give_back_buffer(counted_);
}

std::uint64_t FileReader::provide_bounce(std::uint64_t bytes) {
  std::uint64_t wanted = std::bit_ceil(std::clamp(bytes, kLeastBounceBytes, kMostBounceBytes));
  if (counted_ > 0 && budget_->readers_exceed()) {
    std::free(std::exchange(bounce_, nullptr));
    bounce_bytes_ = 0;
    budget_->give_back_buffer(std::exchange(counted_, 0));
  }
  if (wanted <= bounce_bytes_) return bounce_bytes_;
  if (wanted > std::max(counted_, kLeastBounceBytes) && budget_ != nullptr) {
    if (wanted <= budget_->limit() / kShareOfBounce &&
        budget_->try_take_buffer(wanted - counted_)) {
      counted_ = wanted;
    } else if (bounce_bytes_ > 0) {
      return bounce_bytes_;
    } else {
      wanted = kLeastBounceBytes;
    }
  }
  std::free(std::exchange(bounce_, nullptr));
  bounce_bytes_ = 0;
  bounce_ = static_cast<std::byte*>(std::aligned_alloc(kDirectAlignment, wanted));
  if (bounce_ == nullptr) throw std::bad_alloc();
  bounce_bytes_ = wanted;
  return wanted;
}

Result<Opened> FileReader::open(const std::string& path, std::span<std::byte> prefix) {
  auto file = FileObject::open(path, preference_, *systems_);
  if (!file.ok()) return file.status();
  const std::uint64_t size = std::min<std::uint64_t>(prefix.size(), (*file)->size());
  if (size > 0) {
    std::vector<iovec> segments{{prefix.data(), size}};
    std::uint64_t offset = 0;
    if (Status status = read_buffered(**file, &offset, &segments); !status.ok()) {
      return std::move(status).with_range(0, size);
    }
  }
  return Opened{std::move(*file), size};
}

Status FileReader::read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
                        ReadReport* report) {
  const auto& file = static_cast<const FileObject&>(object);
  const std::uint64_t size = total_bytes(segments);
  report->strategy = fs_strategy_name(FsStrategy::kBuffered);
  const bool direct = file.trial() == nullptr && file.way(offset, size) == ReadWay::kDirect;
  if (!has_gap(segments))
    return read_run(file, offset, {segments.begin(), segments.end()}, direct, report);
  // Bytes between two large gaps are read at once.
  const std::uint64_t most = direct ? kDirectGap : kCachedGap;
  std::vector<iovec> part;
  std::uint64_t start = offset;
  const auto read = [&]() -> Status {
    return part.empty() ? Status() : read_run(file, start, std::exchange(part, {}), direct, report);
  };
  for (const iovec& segment : segments) {
    if (is_gap(segment) && segment.iov_len > most) {
      if (Status status = read(); !status.ok()) return status;
      report->skipped += segment.iov_len;
      start = offset + segment.iov_len;
    } else {
      part.push_back(segment);
    }
    offset += segment.iov_len;
  }
  return read();
}

Status FileReader::read_run(const FileObject& file, std::uint64_t offset,
                            std::vector<iovec> segments, bool direct, ReadReport* report) {
  if (file.trial() != nullptr) return read_by_trial(file, offset, &segments, report);
  if (file.local()) systems_->read_local();
  if (direct) {
    if (Status status = read_direct(file, &offset, &segments, report); !status.ok()) return status;
  }
  return read_buffered(file, &offset, &segments);
}

Status FileReader::read_by_trial(const FileObject& file, std::uint64_t offset,
                                 std::vector<iovec>* segments, ReadReport* report) {
  ReadTrial& trial = *file.trial();
  if (file.in_page_cache()) {
    systems_->read_local();
    return read_buffered(file, &offset, segments);
  }
  const std::uint64_t size = total_bytes(*segments);
  const ReadTrial::Read turn = trial.begin();
  systems_->read_by(trial);
  const Clock::time_point start = Clock::now();
  Status status;
  if (turn.setting.direct) {
    const bool possible = file.has_direct();
    if (possible) status = read_direct(file, &offset, segments, report);
    if (!possible || (status.ok() && !segments->empty())) trial.refuse_direct();
  }
  if (status.ok()) {
    status = read_buffered(file, &offset, segments, turn.setting.whole);
  }
  trial.ended(turn, status.ok() ? size : 0, seconds_between(start, Clock::now()));
  systems_->read_by(trial);
  return status;
}

// Reads by O_DIRECT until `segments` is empty, or leaves the rest if the file system refuses.
Status FileReader::read_direct(const FileObject& file, std::uint64_t* at,
                               std::vector<iovec>* segments, ReadReport* report) {
  const auto descriptor = file.borrow(DescriptorKind::kDirect);
  if (!descriptor.ok()) return file.strategy_only() ? descriptor.status() : Status();
  const int direct = descriptor->fd();
  std::uint64_t& offset = *at;
  DirectIo io = file.direct_io();
  const auto stricter = [&] {
    if (io == DirectIo()) return false;
    file.distrust_direct_io();
    io = DirectIo();
    return true;
  };
  const char* const strategy = fs_strategy_name(FsStrategy::kDirect);
  std::uint64_t left = total_bytes(*segments);
  while (left > 0) {
    if (const std::uint64_t size = direct_bytes(segments->front(), offset, io); size > 0) {
      const ssize_t got =
          pread(direct, segments->front().iov_base, size, static_cast<off_t>(offset));
      if (got > 0) {
        consume(segments, static_cast<std::uint64_t>(got));
        offset += static_cast<std::uint64_t>(got);
        left -= static_cast<std::uint64_t>(got);
        report->strategy = strategy;
        continue;
      }
      if (got == 0) return ended_early(file, offset);
      if (errno == EINTR || (errno == EINVAL && stricter())) continue;
      if (errno == EINVAL) return refused(file, errno);
      return file_error("cannot read the file", file.path(), errno);
    }
    const std::uint64_t start = round_down(offset, io.offset);
    std::uint64_t end = round_up(offset + left, io.offset);
    // Up to the first place that needs no bounce buffer.
    const std::uint64_t next = start + io.offset;
    if (end > next && continues_directly(*segments, next - offset, next, io)) end = next;
    const std::uint64_t size = std::min(end - start, provide_bounce(end - start));
    const ssize_t got = pread(direct, bounce_, size, static_cast<off_t>(start));
    if (got < 0) {
      if (errno == EINTR || (errno == EINVAL && stricter())) continue;
      if (errno == EINVAL) return refused(file, errno);
      return file_error("cannot read the file", file.path(), errno);
    }
    const std::uint64_t skip = offset - start;
    if (static_cast<std::uint64_t>(got) <= skip) return ended_early(file, offset);
    const std::uint64_t useful = std::min(static_cast<std::uint64_t>(got) - skip, left);
    scatter(bounce_ + skip, useful, segments);
    offset += useful;
    left -= useful;
    report->strategy = strategy;
  }
  return {};
}

Status FileReader::prefault(const Object& object, std::uint64_t offset, std::uint64_t size,
                            ReadReport* report) {
  const auto& file = static_cast<const FileObject&>(object);
  report->strategy = fs_strategy_name(FsStrategy::kMapped);
  for (bool readable = false;;) {
    const int os_error = file.populate(offset, size);
    if (os_error == 0) return {};
    if (os_error == EINTR || os_error == EAGAIN) continue;
    if (os_error == ENOMEM) return file_error("cannot map the file's pages", file.path(), ENOMEM);
    // EFAULT stands for every failure: a plain read finds the cause, once.
    std::array<std::byte, 64 * kKiB> scratch;
    for (std::uint64_t at = offset; at < offset + size;) {
      std::vector<iovec> segments{
          {scratch.data(), std::min<std::uint64_t>(scratch.size(), offset + size - at)}};
      if (Status status = read_buffered(file, &at, &segments); !status.ok()) return status;
    }
    if (readable) return file_error("cannot map the file's pages", file.path(), EFAULT);
    readable = true;
  }
}

Status FileReader::list(const std::string& prefix, bool recursive, const ListCallback& found) {
  namespace fs = std::filesystem;
  std::error_code error;
  const auto report = [&found](const fs::directory_entry& entry) {
    std::error_code gone;
    if (!entry.is_regular_file(gone)) return;
    const std::uintmax_t size = entry.file_size(gone);
    if (!gone) found({.path = entry.path().string(), .size = size, .version = "", .sha256 = ""});
  };
  if (recursive) {
    fs::recursive_directory_iterator it(prefix, error);
    for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) report(*it);
  } else {
    fs::directory_iterator it(prefix, error);
    for (; !error && it != fs::directory_iterator(); it.increment(error)) report(*it);
  }
  if (error) return file_error("cannot list the directory", prefix, error.value());
  return {};
}

}  // namespace streamer

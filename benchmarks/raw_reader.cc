// The machine's limit: threads that pread whole files into one reused buffer each, and nothing
// else.
//
//   raw_reader direct|buffered THREADS BLOCK_BYTES FILE...
//
// direct bypasses the page cache (O_DIRECT); buffered copies from it. Prints one line of JSON:
// {"bytes": ..., "seconds": ..., "cpu_seconds": ...}
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kAlignment = 4096;
// A block in one huge page is one piece for the device; in 4 KiB pages it is hundreds, and a device
// of 254 pieces a request reads at a third of its rate.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

struct Block {
  int descriptor = -1;
  std::uint64_t offset = 0;
};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "raw_reader: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Reads one block, up to the end of its file.
std::uint64_t read_block(const Block& block, std::byte* buffer, std::size_t block_bytes) {
  std::uint64_t done = 0;
  while (done < block_bytes) {
    const ssize_t got = pread(block.descriptor, buffer + done, block_bytes - done,
                              static_cast<off_t>(block.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("pread");
    done += static_cast<std::uint64_t>(got);
    // A short direct read that is not a multiple of the block size is the end of the file.
    if (got == 0 || done % kAlignment != 0) break;
  }
  return done;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: raw_reader direct|buffered THREADS BLOCK_BYTES FILE...\n");
    return 2;
  }
  const bool direct = std::strcmp(argv[1], "direct") == 0;
  const int threads = std::max(1, std::atoi(argv[2]));
  const std::size_t block_bytes = std::strtoull(argv[3], nullptr, 10) / kAlignment * kAlignment;
  if (block_bytes == 0) fail("BLOCK_BYTES");

  std::vector<Block> blocks;
  for (int i = 4; i < argc; ++i) {
    const int descriptor = open(argv[i], O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
    if (descriptor < 0) fail(argv[i]);
    struct stat status {};
    if (fstat(descriptor, &status) != 0) fail(argv[i]);
    for (std::uint64_t at = 0; at < static_cast<std::uint64_t>(status.st_size); at += block_bytes) {
      blocks.push_back({descriptor, at});
    }
  }

  std::atomic<std::size_t> next{0};
  std::atomic<std::uint64_t> bytes{0};
  const double cpu_before = cpu_seconds();
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> workers;
  workers.reserve(static_cast<std::size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&] {
      const std::unique_ptr<void, decltype(&std::free)> memory(
          std::aligned_alloc(kHugePage, (block_bytes + kHugePage - 1) / kHugePage * kHugePage),
          &std::free);
      if (!memory) fail("out of memory");
      madvise(memory.get(), block_bytes, MADV_HUGEPAGE);
      for (std::size_t at = next++; at < blocks.size(); at = next++) {
        bytes += read_block(blocks[at], static_cast<std::byte*>(memory.get()), block_bytes);
      }
    });
  }
  for (auto& worker : workers) worker.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("{\"bytes\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n",
              static_cast<unsigned long long>(bytes.load()), seconds.count(),
              cpu_seconds() - cpu_before);
  return 0;
}

// Streams files and objects, piece by piece, through memory that the library finds.
//
//   stream_files /models/a.safetensors s3://bucket/b.safetensors
//
// Prints each file's size and checksum, in the order in which the bytes arrive: file order.
#include <streamer/stream.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

namespace {

constexpr std::uint64_t kPiece = 8 << 20;

int failed(const streamer::Status& status) {
  std::cerr << "error: " << status.to_string() << '\n';
  return 1;
}

struct Checksum {  // FNV-1a
  std::uint64_t value = 0xcbf29ce484222325;
  void add(const std::byte* data, std::uint64_t size) {
    for (std::uint64_t i = 0; i < size; ++i) {
      value = (value ^ static_cast<std::uint64_t>(data[i])) * 0x100000001b3;
    }
  }
};

int run(const std::vector<std::string>& paths) {
  auto options = streamer::Options::from_environment();
  if (!options.ok()) return failed(options.status());
  auto created = streamer::Stream::create(std::move(*options));
  if (!created.ok()) return failed(created.status());
  streamer::Stream& stream = **created;  // threads and connections end with it

  auto files = stream.open(paths);
  if (!files.ok()) return failed(files.status());
  std::vector<streamer::FileRanges> plan;
  for (std::uint32_t i = 0; i < files->size(); ++i) {
    if (const streamer::Status& status = (*files)[i].status; !status.ok()) return failed(status);
    const std::uint64_t size = (*files)[i].size;
    streamer::FileRanges entry{i, {}};
    for (std::uint64_t at = 0; at < size; at += kPiece) {
      entry.ranges.push_back({at, std::min(kPiece, size - at), nullptr, 1});
    }
    plan.push_back(std::move(entry));
  }
  if (auto submitted = stream.submit(plan); !submitted.ok()) {
    return failed(submitted.status());
  }

  std::vector<Checksum> checksums(paths.size());
  for (bool finished = false; !finished;) {
    auto batch = stream.next();
    if (!batch.ok()) return failed(batch.status());
    for (const streamer::Ready& ready : batch->ready) {
      if (!ready.status.ok()) return failed(ready.status);
      for (std::uint32_t i = 0; i < ready.count; ++i) {
        const streamer::Range& range = plan[ready.entry].ranges[ready.first_range + i];
        checksums[ready.file].add(ready.data + ready.positions[i], range.size);
      }
    }  // dropping ready.memory gives the bytes back to the engine
    finished = batch->finished;
  }
  for (std::size_t i = 0; i < paths.size(); ++i) {
    std::printf("%s: %llu bytes, checksum %016llx\n", paths[i].c_str(),
                static_cast<unsigned long long>((*files)[i].size),
                static_cast<unsigned long long>(checksums[i].value));
  }
  const streamer::Stats stats = stream.stats();
  std::fprintf(stderr, "%.3f s, at most %.1f MB held, bound by %s\n", stats.seconds,
               static_cast<double>(stats.peak_memory) / 1e6, stats.bound.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: " << argv[0] << " PATH...\n";
    return 2;
  }
  return run({argv + 1, argv + argc});
}

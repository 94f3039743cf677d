#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/memory_units.h"
#include "simulation.h"

namespace streamer::simulation {
namespace {

constexpr std::uint64_t kMostReads = 300;  // of one load, about

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed) {}
  std::uint64_t pick(std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random_);
  }
  bool one_in(std::uint64_t count) { return pick(1, count) == 1; }
  double uniform(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }
  // Of every order of magnitude alike.
  double magnitude(double low, double high) {
    return std::exp(uniform(std::log(low), std::log(high)));
  }

 private:
  std::mt19937_64 random_;
};

StorageModel random_storage(Dice& dice) {
  StorageModel storage;
  storage.link_rate = dice.magnitude(10e6, 50e9);
  storage.connection_rate = dice.magnitude(5e6, 1e9);
  storage.round_trip = dice.magnitude(20e-6, 0.2);
  storage.first_byte = dice.magnitude(100e-6, 0.2);
  if (dice.one_in(3)) storage.first_byte_tail = dice.uniform(0, 0.2);
  if (dice.one_in(6)) storage.requests_per_second = dice.magnitude(5, 2000);
  if (dice.one_in(4)) storage.reset = dice.uniform(0, 0.5);
  if (dice.one_in(4)) storage.short_body = dice.uniform(0, 0.5);
  if (dice.one_in(4)) {
    storage.stall = dice.uniform(0, 0.3);
    storage.stall_seconds = dice.magnitude(0.1, 30);
  }
  if (dice.one_in(8)) storage.failure = dice.magnitude(0.001, 0.5);
  if (dice.one_in(4)) {
    storage.slow = dice.uniform(0, 0.3);
    storage.slow_rate = dice.magnitude(20e3, 2e6);
  }
  if (dice.one_in(6)) storage.trickle = dice.uniform(0, 0.3);
  storage.addresses = static_cast<int>(dice.pick(1, 8));
  if (dice.one_in(6))
    storage.dead_addresses = static_cast<int>(dice.pick(0, storage.addresses - 1));
  storage.connect_timeout = dice.magnitude(0.1, 5);
  return storage;
}

ConsumerModel random_consumer(Dice& dice) {
  ConsumerModel consumer;
  if (dice.one_in(2)) consumer.rate = dice.magnitude(20e6, 50e9);
  if (dice.one_in(4)) {
    consumer.pause = dice.uniform(0, 0.3);
    consumer.pause_seconds = dice.magnitude(0.001, 5);
  }
  if (dice.one_in(3)) consumer.keep = dice.one_in(3) ? 1 : dice.uniform(0, 1);
  if (dice.one_in(3)) {
    consumer.drop_late = dice.uniform(0, 1);
    consumer.late_seconds = dice.magnitude(0.001, 5);
  }
  if (dice.one_in(8)) consumer.abandon_after = dice.magnitude(0.0001, 5);
  return consumer;
}

std::uint64_t random_size(Dice& dice, std::uint64_t largest) {
  switch (dice.pick(0, 4)) {
    case 0: return 0;
    case 1: return dice.pick(0, std::min<std::uint64_t>(largest, 300));
    case 2: return dice.pick(0, std::min<std::uint64_t>(largest, 300 * kKiB));
    default: return dice.pick(0, largest);
  }
}

}  // namespace

LoadModel random_load(std::uint64_t seed) {
  Dice dice(seed);
  LoadModel load;
  load.storage = random_storage(dice);
  load.consumer = random_consumer(dice);
  load.kind = dice.one_in(4) ? SourceKind::kFile : SourceKind::kS3;
  load.mapped = load.kind == SourceKind::kFile && dice.one_in(2);
  load.traits.remote = load.kind != SourceKind::kFile;
  load.traits.stragglers = load.traits.remote && !dice.one_in(4);
  const std::uint64_t largest =
      static_cast<std::uint64_t>(dice.magnitude(1, dice.one_in(20) ? 2.1e9 : 64e6));
  load.traits.chunk_bytes =
      std::max<std::uint64_t>(largest / 64, static_cast<std::uint64_t>(dice.magnitude(4e3, 32e6)));
  if (load.traits.remote && dice.one_in(2)) load.traits.reader_bytes = dice.pick(1, kMiB);
  if (dice.one_in(2)) load.traits.max_chunk_bytes = dice.pick(1, 4) * load.traits.chunk_bytes;
  load.traits.view_chunk_bytes = dice.pick(1, 16) * 2 * kMiB;
  load.traits.window_bytes = static_cast<std::uint64_t>(dice.magnitude(1e6, 1e9));
  load.most_window = load.traits.window_bytes * dice.pick(0, 8);
  load.traits.initial_concurrency = static_cast<int>(dice.pick(1, 16));
  load.traits.max_concurrency = static_cast<int>(dice.pick(16, 128));
  if (dice.one_in(2)) load.concurrency = static_cast<int>(dice.pick(1, 32));
  load.processors = static_cast<int>(dice.pick(1, 64));
  load.far = dice.one_in(2);
  const MemoryLimit limits[] = {
      MemoryLimit(), MemoryLimit::unlimited(), MemoryLimit::least(),
      MemoryLimit::bytes(2 * largest + 2 * kMiB + dice.pick(0, 1 << 28)),
      MemoryLimit::bytes(MemoryPool::capacity_for(largest) + dice.pick(0, 1 << 22))};
  load.memory_limit = limits[dice.pick(0, 4)];
  load.submissions = dice.one_in(3) ? static_cast<int>(dice.pick(1, 5)) : 1;
  if (dice.one_in(4)) load.gap = dice.pick(1, 9000);
  const std::uint64_t files = dice.one_in(50) ? dice.pick(100, 2000) : dice.pick(1, 8);
  std::uint64_t reads = 0;
  for (std::uint64_t i = 0; i < files; ++i) {
    auto& file = load.files.emplace_back();
    const std::uint64_t tensors = files > 8 ? dice.pick(0, 2) : dice.pick(0, 40);
    for (std::uint64_t k = 0; k < tensors && reads < kMostReads; ++k) {
      file.push_back(random_size(dice, largest));
      reads += 1 + file.back() / load.traits.chunk_bytes;
    }
  }
  return load;
}

std::string describe(const LoadModel& model) {
  const StorageModel& storage = model.storage;
  const ConsumerModel& consumer = model.consumer;
  std::uint64_t tensors = 0;
  std::uint64_t bytes = 0;
  for (const auto& file : model.files) {
    tensors += file.size();
    for (const std::uint64_t size : file) bytes += size;
  }
  std::ostringstream out;
  out << model.files.size() << " files, " << tensors << " tensors, " << bytes << " bytes, "
      << model.submissions << " submissions, chunks of " << model.traits.chunk_bytes
      << ", concurrency " << model.concurrency << ", stragglers " << model.traits.stragglers
      << ", memory " << model.memory_limit.initial() << ", mapped " << model.mapped
      << "\n  storage: link " << storage.link_rate << " B/s, connection " << storage.connection_rate
      << " B/s, round trip " << storage.round_trip << " s, first byte " << storage.first_byte
      << " s (tail " << storage.first_byte_tail << "), " << storage.requests_per_second
      << " requests/s, reset " << storage.reset << ", short " << storage.short_body << ", stall "
      << storage.stall << " (" << storage.stall_seconds << " s), failure " << storage.failure
      << ", slow " << storage.slow << " (" << storage.slow_rate << " B/s), "
      << storage.dead_addresses << " of " << storage.addresses << " addresses dead"
      << "\n  consumer: " << consumer.rate << " B/s, pause " << consumer.pause << " ("
      << consumer.pause_seconds << " s), keep " << consumer.keep << ", late " << consumer.drop_late
      << " (" << consumer.late_seconds << " s), abandon after " << consumer.abandon_after << " s";
  return out.str();
}

}  // namespace streamer::simulation

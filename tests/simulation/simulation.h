// One load in virtual time and in one thread: the engine's own decisions, a storage and a consumer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/fake_address_space.h"
#include "engine/scheduler_core.h"
#include "storage.h"

namespace streamer::simulation {

// What takes the tensors. Rates are in bytes per second, the rest are probabilities of each block.
struct ConsumerModel {
  double rate = 1e12;
  double pause = 0;  // for `pause_seconds`
  double pause_seconds = 1;
  double keep = 0;       // for ever
  double drop_late = 0;  // after up to `late_seconds`
  double late_seconds = 1;
  double abandon_after = 0;  // seconds; 0: never
};

struct LoadModel {
  SourceKind kind = SourceKind::kS3;
  SourceTraits traits;
  int concurrency = 0;  // 0: adaptive
  int processors = 16;
  bool far = false;  // the first requests measured a distance
  MemoryLimit memory_limit;
  std::uint64_t most_window = 0;  // to which an automatic limit may grow, in bytes
  bool mapped = false;            // the files can be mapped
  // The sizes of the tensors of each file, in bytes. Each file is opened by a task.
  std::vector<std::vector<std::uint64_t>> files;
  std::uint64_t gap = 0;  // bytes between tensors
  int submissions = 1;
  StorageModel storage;
  ConsumerModel consumer;
};

struct Outcome {
  std::string fault;  // what is wrong; "" if nothing is
  double seconds = 0;
  double first_seconds = 0;  // until the first tensor
  std::uint64_t bytes = 0;   // delivered
  std::uint64_t failed_blocks = 0;
  std::uint64_t reads = 0;
  std::uint64_t attempts = 0;
  std::uint64_t peak_memory = 0;
  std::size_t most_active = 0;  // reads at a time
  SchedulerTimes times;
};

// Runs the load to its end. The same seed gives the same outcome.
Outcome simulate(const LoadModel& model, std::uint64_t seed);

// A load that a seed makes up: any storage, files, limits and consumer.
LoadModel random_load(std::uint64_t seed);
// The load in words, for the report of a failure.
std::string describe(const LoadModel& model);

}  // namespace streamer::simulation

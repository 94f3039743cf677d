// Prints how fast the policies of concurrency, window and stragglers are, for storages and machines
// that no laboratory has: `simulation_speed [NAME [default]]`, of all scenarios or of those whose
// name has NAME in it, and of these without a fixed number to compare with. Times are virtual;
// nothing here measures a processor.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/memory_units.h"
#include "simulation.h"
#include "source/source.h"

namespace {

using streamer::SourceKind;
using streamer::SourceTraits;
using streamer::simulation::LoadModel;
using streamer::simulation::Outcome;
using streamer::simulation::simulate;
using streamer::simulation::StorageModel;

constexpr double kGigabit = 1e9 / 8;
constexpr int kFixed[] = {8, 16, 32, 64, 128, 256};

struct Scenario {
  std::string name;
  StorageModel storage;
  std::uint64_t files = 30;
  std::uint64_t tensors = 40;         // of each file
  std::uint64_t bytes = 117'000'000;  // of each tensor
  double consumer_rate = 1e12;
  double target_rate = 0;  // RUNAI_STREAMER_S3_TARGET_GBPS, in bytes per second
  streamer::MemoryLimit memory_limit = {};
};

StorageModel storage(double gigabits, double connection_rate, double round_trip) {
  StorageModel made;
  made.link_rate = gigabits * kGigabit;
  made.connection_rate = connection_rate;
  made.round_trip = round_trip;
  made.first_byte = 0.015;
  made.first_byte_tail = 0.01;
  return made;
}

std::vector<Scenario> scenarios() {
  std::vector<Scenario> made;
  for (const int rate : {85, 150, 300}) {
    for (const int trip : {2, 6, 30}) {
      made.push_back(
          {"100 Gbit/s, " + std::to_string(rate) + " MB/s, " + std::to_string(trip) + " ms",
           storage(100, rate * 1e6, trip * 1e-3)});
    }
  }
  made.push_back({"400 Gbit/s, 85 MB/s, 30 ms", storage(400, 85e6, 0.03)});
  Scenario told{"the same, target 400, limit 16 GiB", storage(400, 85e6, 0.03)};
  told.target_rate = 400 * kGigabit;
  told.memory_limit = streamer::MemoryLimit::bytes(16 * streamer::kGiB);
  made.push_back(told);
  Scenario eighth{"an eighth of it, target 50", storage(50, 85e6, 0.03), 4};
  eighth.target_rate = 50 * kGigabit;
  made.push_back(eighth);
  made.push_back({"20 Gbit/s, 20 MB/s, 4 ms", storage(20, 20e6, 0.004), 4});
  made.push_back({"10 Gbit/s, 90 MB/s, 20 ms", storage(10, 90e6, 0.02), 4});
  Scenario slow{"one connection in ten at 0.85 MB/s", storage(100, 85e6, 0.006)};
  slow.storage.slow = 0.1;
  slow.storage.slow_rate = 0.85e6;
  made.push_back(slow);
  Scenario dead{"one address of eight dead", storage(100, 85e6, 0.006)};
  dead.storage.addresses = 8;
  dead.storage.dead_addresses = 1;
  made.push_back(dead);
  Scenario trickle{"one read in seven at 20 kB/s", storage(10, 85e6, 0.006), 1, 20, 20'000'000};
  made.push_back(trickle);
  trickle.name = "the same without them";
  made.back().storage.trickle = 1.0 / 7;
  made.push_back(trickle);
  Scenario throttled{"503 above 500 requests/s", storage(100, 85e6, 0.006)};
  throttled.storage.requests_per_second = 500;
  made.push_back(throttled);
  made.push_back({"tensors of 470 MB", storage(100, 85e6, 0.006), 10, 30, 470'000'000});
  made.push_back({"storage as fast as the consumer", storage(10, 85e6, 0.006), 4, 40, 100'000'000,
                  10 * kGigabit});
  made.push_back({"200,000 tensors of 1,000 files", storage(100, 85e6, 0.006), 1000, 200, 700'000});
  return made;
}

LoadModel load_of(const Scenario& scenario, const SourceTraits& traits, int concurrency) {
  LoadModel load;
  load.traits = traits;
  load.traits.target_rate = scenario.target_rate;
  load.memory_limit = scenario.memory_limit;
  load.concurrency = concurrency;
  load.processors = 64;
  load.far = true;
  load.most_window = 4 * streamer::kGiB;
  load.storage = scenario.storage;
  load.consumer.rate = scenario.consumer_rate;
  load.files.assign(scenario.files, std::vector<std::uint64_t>(scenario.tensors, scenario.bytes));
  return load;
}

double run(const Scenario& scenario, const SourceTraits& traits, int concurrency,
           Outcome* outcome) {
  *outcome = simulate(load_of(scenario, traits, concurrency), 1);
  if (!outcome->fault.empty()) std::printf("  fault: %s\n", outcome->fault.c_str());
  return outcome->seconds;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string only = count > 1 ? arguments[1] : "";
  const bool compare = count < 3;
  const streamer::Options options;
  const streamer::CancelToken cancel;
  const auto source = streamer::make_source(SourceKind::kS3, {options, cancel});
  if (!source.ok()) {
    std::fprintf(stderr, "%s\n", source.status().to_string().c_str());
    return 1;
  }
  const SourceTraits& traits = (*source)->traits();
  std::printf("| storage | GB | s | of the link | of the best fixed | reads | memory, MiB |\n");
  std::printf("|---|---:|---:|---:|---:|---:|---:|\n");
  for (const Scenario& scenario : scenarios()) {
    if (scenario.name.find(only) == std::string::npos) continue;
    Outcome outcome;
    const double seconds = run(scenario, traits, 0, &outcome);
    double best = compare ? 1e9 : seconds;
    int best_number = 0;
    for (const int fixed : kFixed) {
      if (!compare) break;
      Outcome other;
      const double time = run(scenario, traits, fixed, &other);
      if (time < best) {
        best = time;
        best_number = fixed;
      }
    }
    const double link = static_cast<double>(outcome.bytes) / scenario.storage.link_rate;
    std::printf("| %s | %.3g | %.1f | %.2f | %.2f (%d) | %zu | %.0f |\n", scenario.name.c_str(),
                static_cast<double>(outcome.bytes) * 1e-9, seconds, link / seconds, best / seconds,
                best_number, outcome.most_active,
                static_cast<double>(outcome.peak_memory) / static_cast<double>(streamer::kMiB));
    std::fflush(stdout);
  }
  return 0;
}

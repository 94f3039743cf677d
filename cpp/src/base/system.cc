#include "base/system.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

namespace streamer {
namespace {

std::uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word) || word == "max") return kNoLimit;
  const std::uint64_t value = std::strtoull(word.c_str(), nullptr, 10);
  // cgroup v1 says "no limit" by a number near 2^63.
  return value == 0 || value > (std::uint64_t{1} << 60) ? kNoLimit : value;
}

// The cgroup's directory: its own path where the hierarchy is visible, else the root of the mount,
// which is the container's.
struct Cgroup {
  std::string directory;
  bool v2 = true;
};

Cgroup find_cgroup() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  Cgroup found;
  while (std::getline(file, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (line.rfind("0::", 0) == 0) {
      found.directory = "/sys/fs/cgroup" + path;
    } else if (controllers.find("memory") != std::string::npos) {
      return {"/sys/fs/cgroup/memory" + path, false};
    }
  }
  return found;
}

std::string parent(const std::string& directory) {
  return directory.substr(0, directory.rfind('/'));
}

// The lowest limit of the cgroup and its ancestors.
std::uint64_t lowest(const Cgroup& group, const char* v2, const char* v1) {
  std::uint64_t limit = kNoLimit;
  std::string directory = group.directory;
  while (directory.size() >= std::string("/sys/fs/cgroup").size()) {
    limit = std::min(limit, read_number(directory + "/" + (group.v2 ? v2 : v1)));
    directory = parent(directory);
  }
  return limit;
}

}  // namespace

std::uint64_t cgroup_memory_limit() {
  return lowest(find_cgroup(), "memory.max", "memory.limit_in_bytes");
}

std::uint64_t available_memory() {
  std::uint64_t available = kNoLimit;
  std::ifstream meminfo("/proc/meminfo");
  std::string line;
  while (std::getline(meminfo, line)) {
    if (line.rfind("MemAvailable:", 0) == 0) {
      available = std::strtoull(line.c_str() + 13, nullptr, 10) * 1024;
      break;
    }
  }
  return std::min(available, cgroup_memory_limit());
}

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream file(find_cgroup().directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) {
    count = std::min(count,
                     static_cast<int>(std::lround(std::strtod(quota.c_str(), nullptr) / period)));
  }
  return std::max(count, 1);
}

ProcessorTimes processor_times(bool with_idle) {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  ProcessorTimes times;
  times.used = static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
  if (!with_idle) return times;
  std::ifstream stat("/proc/stat");
  std::string name;
  double user = 0;
  double nice = 0;
  double system = 0;
  double idle = 0;
  if (stat >> name >> user >> nice >> system >> idle) {
    times.idle = idle / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  return times;
}

}  // namespace streamer

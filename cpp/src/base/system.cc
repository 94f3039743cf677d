#include "base/system.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "base/memory_units.h"

namespace streamer {
namespace {

constexpr const char* kSelf = "/proc/self/cgroup";
constexpr const char* kRoot = "/sys/fs/cgroup";

std::uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word) || word == "max") return kNoLimit;
  const std::uint64_t value = std::strtoull(word.c_str(), nullptr, 10);
  // In cgroup v1, a number near 2^63 means "no limit".
  return value == 0 || value > (std::uint64_t{1} << 60) ? kNoLimit : value;
}

// The cgroup's directory: its own path if the hierarchy is visible, else the root of the mount,
// which is the container's.
struct Cgroup {
  std::string directory;
  bool v2 = true;
};

bool is_among(const std::string& word, const std::string& list) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// The cgroup of this process that limits the resource of `controller`.
Cgroup find_cgroup(const std::string& controller, const std::string& self,
                   const std::string& root) {
  std::ifstream file(self);
  std::string line;
  Cgroup found;
  while (std::getline(file, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (line.rfind("0::", 0) == 0) {
      found.directory = root + path;
    } else if (is_among(controller, controllers)) {
      std::string directory = root;
      directory.append("/").append(controller).append(path);
      return {std::move(directory), false};
    }
  }
  return found;
}

std::string parent(const std::string& directory) {
  return directory.substr(0, directory.rfind('/'));
}

// Calls `visit` with the directory of the cgroup and of each of its ancestors.
template <typename Visit>
void for_ancestors(const Cgroup& group, const std::string& root, Visit visit) {
  for (std::string directory = group.directory; directory.size() >= root.size();
       directory = parent(directory)) {
    visit(directory);
  }
}

}  // namespace

std::uint64_t cgroup_memory_limit() {
  std::uint64_t limit = kNoLimit;
  const Cgroup group = find_cgroup("memory", kSelf, kRoot);
  for_ancestors(group, kRoot, [&](const std::string& directory) {
    const char* const name = group.v2 ? "/memory.max" : "/memory.limit_in_bytes";
    limit = std::min(limit, read_number(directory + name));
  });
  return limit;
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

std::uint64_t address_space_left() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kNoLimit;
  const std::uint64_t used = read_number("/proc/self/statm") * page_size();
  return limit.rlim_cur - std::min<std::uint64_t>(limit.rlim_cur, used);
}

std::uint64_t descriptor_limit() {
  rlimit limit{};
  const bool none = getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY;
  return none ? kNoLimit : limit.rlim_cur;
}

int exhausted_descriptors() {
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return errno == EMFILE || errno == ENFILE ? errno : 0;
  ::close(probe);
  return 0;
}

double processor_quota(const std::string& self, const std::string& root) {
  double lowest = std::numeric_limits<double>::infinity();
  const Cgroup group = find_cgroup("cpu", self, root);
  for_ancestors(group, root, [&](const std::string& directory) {
    double quota = 0;
    double period = 0;
    if (group.v2) {  // "max 100000" is not a number
      std::ifstream file(directory + "/cpu.max");
      if (!(file >> quota >> period)) return;
    } else if (!(std::ifstream(directory + "/cpu.cfs_quota_us") >> quota) ||
               !(std::ifstream(directory + "/cpu.cfs_period_us") >> period)) {
      return;
    }
    if (quota > 0 && period > 0) lowest = std::min(lowest, quota / period);  // -1: no limit
  });
  return lowest;
}

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  const double quota = processor_quota(kSelf, kRoot);
  if (quota < count) count = static_cast<int>(std::lround(quota));
  return std::max(count, 1);
}

double processor_seconds() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

}  // namespace streamer

// The limits of the machine and of the container.
#pragma once

#include <cstdint>
#include <string>

namespace streamer {

inline constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};

// Memory limit of the process' cgroup (v2 or v1) in bytes, or kNoLimit.
std::uint64_t cgroup_memory_limit();

// Memory that can be used without swapping: the lower of MemAvailable and the rest of the cgroup's
// limit, page cache counted as free. kNoLimit if it is unknown.
std::uint64_t available_memory();

// Bytes of addresses that the process may still map (RLIMIT_AS), or kNoLimit.
std::uint64_t address_space_left();

// Descriptors that the process may have (RLIMIT_NOFILE), or kNoLimit.
std::uint64_t descriptor_limit();

// EMFILE or ENFILE if no descriptor is left, else 0. A call that fails for lack of one does not
// always set this errno.
int exhausted_descriptors();
// The hint for errors of that kind.
inline constexpr const char* kRaiseDescriptorLimit = "Raise the limit of open files (ulimit -n)";

// Processors that the quotas of a cgroup and of its ancestors allow (v2 or v1); infinite: no quota.
// `self` is the file /proc/self/cgroup, `root` is the directory that the hierarchies are mounted
// in.
double processor_quota(const std::string& self, const std::string& root);

// Processors that the process may use: by affinity and by the quotas of cgroups, at least 1.
int usable_processors();

// Seconds of processors that all threads of the process have used.
double processor_seconds();

}  // namespace streamer

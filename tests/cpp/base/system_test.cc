#include "base/system.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "source/temporary.h"

namespace streamer {
namespace {

TEST(System, CountsTheProcessorTimeThatTheProcessUses) {
  const double before = processor_seconds();
  while (processor_seconds() < before + 0.01) {
  }
  EXPECT_GT(before, 0);
}

// A tree of cgroups as the kernel shows it.
class Cgroups {
 public:
  Cgroups& set(const std::string& file, const std::string& text) {
    const std::filesystem::path path = directory_.path("fs/" + file);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
    return *this;
  }
  double quota(const std::string& self) const {
    std::ofstream(directory_.path("self")) << self;
    return processor_quota(directory_.path("self"), directory_.path("fs"));
  }

 private:
  const testing::Directory directory_;
};

TEST(System, TheLowestQuotaOfACgroupAndItsAncestorsCounts) {
  Cgroups groups;
  const std::string self = "0::/pod/container\n";
  EXPECT_TRUE(std::isinf(groups.quota(self)));
  groups.set("pod/container/cpu.max", "max 100000");
  EXPECT_TRUE(std::isinf(groups.quota(self)));
  groups.set("pod/cpu.max", "400000 100000");
  EXPECT_EQ(groups.quota(self), 4);
  groups.set("pod/container/cpu.max", "150000 100000");
  EXPECT_EQ(groups.quota(self), 1.5);
}

TEST(System, QuotasOfVersionOneCount) {
  Cgroups groups;
  const std::string self = "4:memory:/m\n3:cpu,cpuacct:/pod/container\n0::/\n";
  groups.set("cpu/pod/container/cpu.cfs_quota_us", "-1");
  groups.set("cpu/pod/container/cpu.cfs_period_us", "100000");
  EXPECT_TRUE(std::isinf(groups.quota(self)));
  groups.set("cpu/pod/cpu.cfs_quota_us", "200000");
  groups.set("cpu/pod/cpu.cfs_period_us", "50000");
  EXPECT_EQ(groups.quota(self), 4);
  // The directory of another container's view is not there: the root of the mount is what counts.
  groups.set("cpu/cpu.cfs_quota_us", "100000").set("cpu/cpu.cfs_period_us", "50000");
  EXPECT_EQ(groups.quota("3:cpu,cpuacct:/elsewhere\n"), 2);
}

}  // namespace
}  // namespace streamer

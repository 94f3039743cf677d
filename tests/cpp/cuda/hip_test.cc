// AMD's GPUs: the same table, filled from HIP's functions.
#include <dlfcn.h>

#include <cstring>

#include "cuda/standin_fixture.h"

namespace streamer {
namespace {

// The stand-in with HIP's names has devices of its own, which only its own functions reach.
class HipTest : public StandinTest {
 protected:
  void SetUp() override {
    StandinTest::SetUp();
    library_ = dlopen(STANDIN_HIP, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
    call<void(int, std::uint64_t)>("standin_reset")(2, kGiB);
    call<void(int)>("standin_use")(0);
  }
  void TearDown() override {
    standin_counts counts{};
    call<void(standin_counts*)>("standin_count")(&counts);
    EXPECT_EQ(counts.violations, 0U) << call<const char*()>("standin_violation")();
    EXPECT_EQ(counts.pinned_bytes, 0U);
    EXPECT_EQ(counts.streams, 0U);
    EXPECT_EQ(counts.events, 0U);
    call<void(int, std::uint64_t)>("standin_reset")(2, kGiB);
    dlclose(library_);
    StandinTest::TearDown();
  }
  template <typename Function>
  Function* call(const char* name) {
    return reinterpret_cast<Function*>(dlsym(library_, name));
  }

  void* library_ = nullptr;
};

TEST_F(HipTest, BytesAreWhereTheyBelongOnEachDevice) {
  const std::uint64_t size = 5 * kMiB + 77;
  const std::string path = make_file("model", size);
  auto stream = Stream::create(options({{"RUNAI_STREAMER_CUDA_LIBRARY", STANDIN_HIP}}));
  ASSERT_TRUE(stream.ok()) << stream.status().to_string();
  ASSERT_TRUE((*stream)->open({path}).ok());
  // Device 1 is not the current one.
  for (const int device : {0, 1}) {
    void* const memory = call<void*(int, std::uint64_t)>("standin_alloc")(device, size);
    auto* const bytes = static_cast<std::byte*>(memory);
    const auto submitted =
        (*stream)->submit({{0, {{0, size, bytes}}}}, {DeviceType::kCuda, device});
    ASSERT_TRUE(submitted.ok()) << submitted.status().to_string();
    for (const Status& status : drain(**stream, 1)) EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(std::memcmp(memory, content(size).data(), size), 0);
    call<void(void*)>("standin_free")(memory);
  }
}

}  // namespace
}  // namespace streamer

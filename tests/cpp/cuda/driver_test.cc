// Finding and initialising the driver, and the context of a device.
#include "destination/cuda/driver.h"

#include <sys/wait.h>
#include <unistd.h>

#include "cuda/standin_fixture.h"
#include "destination/cuda/context.h"

namespace streamer::gpu {
namespace {

class DriverTest : public StandinTest {};

TEST_F(DriverTest, LoadsOnceByPath) {
  const auto first = Driver::load(STANDIN_CUDA);
  const auto second = Driver::load(STANDIN_CUDA);
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  EXPECT_EQ(*first, *second);
  EXPECT_FALSE((*first)->is_hip());
}

TEST_F(DriverTest, FillsTheSameTableFromHip) {
  {
    // Its devices are its own: it is another library.
    const auto driver = Driver::load(STANDIN_HIP);
    EXPECT_EQ(driver.status().code(), Code::kOk) << driver.status().to_string();
    ASSERT_TRUE(driver.ok());
    EXPECT_TRUE((*driver)->is_hip());
    int count = 0;
    EXPECT_EQ((*driver)->device_count(&count), kSuccess);
    EXPECT_EQ(count, 2);
  }
}

TEST_F(DriverTest, SaysWhyThereIsNone) {
  const auto driver = Driver::load("/nonexistent/libcuda.so.1");
  ASSERT_FALSE(driver.ok());
  EXPECT_EQ(driver.status().code(), Code::kDevice);
  EXPECT_NE(driver.status().to_string().find("/nonexistent/libcuda.so.1"), std::string::npos);
  EXPECT_NE(driver.status().to_string().find("Install the NVIDIA driver"), std::string::npos);
}

TEST_F(DriverTest, RefusesALibraryThatIsNoDriver) {
  const auto driver = Driver::load("libm.so.6");
  ASSERT_FALSE(driver.ok());
  EXPECT_EQ(driver.status().code(), Code::kDevice);
  EXPECT_NE(driver.status().to_string().find("it has no hipInit"), std::string::npos);
}

TEST_F(DriverTest, NamesTheDriversError) {
  const auto driver = Driver::load(STANDIN_CUDA);
  ASSERT_TRUE(driver.ok());
  const Status status = (*driver)->error(700, "it failed");
  EXPECT_NE(status.to_string().find("CUDA_ERROR_ILLEGAL_ADDRESS 700: an illegal memory access"),
            std::string::npos)
      << status.to_string();
  EXPECT_EQ(status.detail().server_code, "CUDA_ERROR_ILLEGAL_ADDRESS");
  EXPECT_NE((*driver)->error(12345, "it failed").to_string().find("unknown error 12345"),
            std::string::npos);
}

TEST_F(DriverTest, IsRefusedInAForkedChild) {
  ASSERT_TRUE(Driver::load(STANDIN_CUDA).ok());
  const pid_t child = fork();
  if (child == 0) {
    const auto driver = Driver::load(STANDIN_CUDA);
    const bool told = !driver.ok() && driver.status().code() == Code::kDevice &&
                      driver.status().to_string().find("forked") != std::string::npos &&
                      driver.status().to_string().find("spawn") != std::string::npos;
    _exit(told ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

class ContextTest : public StandinTest {
 protected:
  void SetUp() override {
    StandinTest::SetUp();
    auto driver = Driver::load(STANDIN_CUDA);
    ASSERT_TRUE(driver.ok()) << driver.status().to_string();
    driver_ = *driver;
  }
  const Driver* driver_ = nullptr;
};

TEST_F(ContextTest, UsesTheActivePrimaryContextAndKeepsIt) {
  const std::uint64_t before = counts().context_references;
  {
    auto context = DeviceContext::find(*driver_, 0);
    ASSERT_TRUE(context.ok()) << context.status().to_string();
    EXPECT_EQ(counts().context_references, before + 1);
    EXPECT_EQ(counts().contexts_made, 1U);
  }
  EXPECT_EQ(counts().context_references, before);
}

TEST_F(ContextTest, NeverMakesOne) {
  auto context = DeviceContext::find(*driver_, 1);
  ASSERT_FALSE(context.ok());
  EXPECT_EQ(context.status().code(), Code::kDevice);
  EXPECT_NE(context.status().to_string().find("nothing has used cuda:1"), std::string::npos);
  EXPECT_EQ(counts().contexts_made, 1U);
}

TEST_F(ContextTest, TakesTheOneThatTheCallerMadeCurrent) {
  void* const mine = standin_new_context(0);
  auto context = DeviceContext::find(*driver_, 0);
  ASSERT_TRUE(context.ok());
  EXPECT_EQ(context->handle(), mine);
}

TEST_F(ContextTest, IgnoresACurrentContextOfAnotherDevice) {
  standin_use(1);
  auto context = DeviceContext::find(*driver_, 0);
  ASSERT_TRUE(context.ok());
  Context current = nullptr;
  driver_->context_current(&current);
  EXPECT_NE(context->handle(), current);
  standin_leave(1);
}

TEST_F(ContextTest, SaysHowManyDevicesThereAre) {
  for (const int ordinal : {2, 7, -1}) {
    const auto context = DeviceContext::find(*driver_, ordinal);
    ASSERT_FALSE(context.ok());
    EXPECT_EQ(context.status().code(), Code::kDevice);
    EXPECT_EQ(context.status().detail().server_code, "CUDA_ERROR_INVALID_DEVICE");
    EXPECT_NE(context.status().to_string().find("sees 2"), std::string::npos);
    EXPECT_NE(context.status().to_string().find("CUDA_VISIBLE_DEVICES"), std::string::npos);
  }
}

}  // namespace
}  // namespace streamer::gpu

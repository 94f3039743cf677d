#include "source/http/s3/credential_process.h"

#include <gtest/gtest.h>

#include <thread>

namespace streamer::http {
namespace {

TEST(CredentialProcess, CommandsAreSplitAsAShellDoes) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(split_command(" a  b\tc "), (Words{"a", "b", "c"}));
  EXPECT_EQ(split_command(R"(a "b c" 'd "e' f\ g "h\"i" '')"),
            (Words{"a", "b c", "d \"e", "f g", "h\"i", ""}));
  EXPECT_EQ(split_command(R"("open end)"), (Words{"open end"}));
  EXPECT_EQ(split_command(R"('\n' \\)"), (Words{"\\n", "\\"}));
  EXPECT_TRUE(split_command("  ").empty());
}

class CredentialProcessRun : public ::testing::Test {
 protected:
  CancelToken cancel_;
  const Transport transport_{TransportSettings(), cancel_};
};

TEST_F(CredentialProcessRun, TheOutputIsReadToItsEnd) {
  const Result<std::string> text =
      run_credential_process("/bin/sh -c 'echo a; sleep 0.2; echo b'", transport_);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, "a\nb\n");
}

TEST_F(CredentialProcessRun, FailuresAreErrorsOfCredentials) {
  for (const char* command : {"", "/nonexistent/program", "/bin/sh -c 'exit 3'",
                              "/bin/sh -c 'kill -9 $$'", "/bin/sh -c 'yes | head -c 2000000'"}) {
    EXPECT_EQ(run_credential_process(command, transport_).status().code(), Code::kCredentials)
        << command;
  }
}

TEST_F(CredentialProcessRun, CancellingEndsTheProgram) {
  std::thread closer([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancel_.cancel();
  });
  EXPECT_EQ(run_credential_process("/bin/sleep 600", transport_).status().code(), Code::kCancelled);
  closer.join();
}

}  // namespace
}  // namespace streamer::http

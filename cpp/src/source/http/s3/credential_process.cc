#include "source/http/s3/credential_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>

#include "base/clock.h"

extern "C" char** environ;  // NOLINT: POSIX requires the program to declare it

namespace streamer::http {
namespace {

constexpr std::size_t kOutputLimit = 1 << 20;
constexpr std::chrono::seconds kTimeout{60};
constexpr int kPollMs = 50;

Status failed(const std::string& why, int os_error = 0) {
  return Status::error(Code::kCredentials, "credential_process of the AWS profile " + why)
      .with_errno(os_error);
}

// A child process, which does not outlive this object.
class Child {
 public:
  Child() = default;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (output_ >= 0) ::close(output_);
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    (void)wait();
  }

  // Returns an errno.
  int start(std::vector<std::string> words) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno;
    output_ = ends[0];
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);

    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none;  // workers block every signal
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    const int error =
        ::posix_spawnp(&pid_, arguments[0], &files, &attributes, arguments.data(), environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    ::close(ends[1]);
    if (error != 0) pid_ = 0;
    return error;
  }

  // Adds output of the child; 0: it has closed its output, -1: nothing is there yet.
  ssize_t read(std::string* text) const {
    pollfd ready{output_, POLLIN, 0};
    if (::poll(&ready, 1, kPollMs) <= 0) return -1;
    std::array<char, 4096> buffer{};
    const ssize_t size = ::read(output_, buffer.data(), buffer.size());
    if (size > 0) text->append(buffer.data(), static_cast<std::size_t>(size));
    return size < 0 && (errno == EINTR || errno == EAGAIN) ? -1 : std::max<ssize_t>(size, 0);
  }

  // Its exit status, as waitpid() returns it; -1: another part of the program took it.
  int wait() {
    int status = 0;
    pid_t ended = -1;
    do {
      ended = ::waitpid(pid_, &status, 0);
    } while (ended < 0 && errno == EINTR);
    pid_ = 0;
    return ended < 0 ? -1 : status;
  }

 private:
  pid_t pid_ = 0;
  int output_ = -1;
};

}  // namespace

std::vector<std::string> split_command(const std::string& command) {
  std::vector<std::string> words;
  std::string word;
  bool begun = false;
  char quote = '\0';
  for (std::size_t i = 0; i < command.size(); ++i) {
    const char c = command[i];
    if (c == '\\' && quote != '\'' && i + 1 < command.size()) {
      word += command[++i];
      begun = true;
    } else if (quote != '\0') {
      if (c == quote) {
        quote = '\0';
      } else {
        word += c;
      }
    } else if (c == '"' || c == '\'') {
      quote = c;
      begun = true;
    } else if (c == ' ' || c == '\t') {
      if (begun) words.push_back(std::move(word));
      word.clear();
      begun = false;
    } else {
      word += c;
      begun = true;
    }
  }
  if (begun) words.push_back(std::move(word));
  return words;
}

Result<std::string> run_credential_process(const std::string& command, const Transport& transport) {
  std::vector<std::string> words = split_command(command);
  if (words.empty()) return failed("names no program");
  const std::string program = words[0];
  Child child;
  if (const int error = child.start(std::move(words)); error != 0) {
    return failed("can't be started: " + program, error);
  }
  const Clock::time_point deadline = Clock::now() + kTimeout;
  std::string text;
  for (ssize_t size = -1; size != 0;) {
    if (Status status = transport.interrupted(); !status.ok()) return status;
    if (Clock::now() > deadline) return failed("takes longer than a minute: " + program);
    size = child.read(&text);
    if (text.size() > kOutputLimit) return failed("prints more than 1 MiB: " + program);
  }
  const int status = child.wait();
  if (status > 0) {
    return failed("failed: " + program +
                  (WIFEXITED(status) ? " ended with status " + std::to_string(WEXITSTATUS(status))
                                     : " was ended by signal " + std::to_string(WTERMSIG(status))));
  }
  return text;
}

}  // namespace streamer::http

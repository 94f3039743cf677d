// Threads that touch pages which a truncation took away, and SIGBUS of others.
#include "source/file/view_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/memory_map.h"
#include "base/memory_units.h"
#include "source/file/file_view.h"
#include "source/lost_pages.h"
#include "source/mapped_file.h"

namespace streamer {
namespace {

void set_action(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(SIGBUS, &action, nullptr);
}
void set_action(void (*handler)(int, siginfo_t*, void*), int flags = 0) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  sigaction(SIGBUS, &action, nullptr);
}
struct sigaction present_action() {
  struct sigaction action {};
  sigaction(SIGBUS, nullptr, &action);
  return action;
}

// What the handlers of a program do here: they map memory, once for each fault, and count.
std::atomic<int> cured{0};
void cure(int, siginfo_t* info, void*) {
  ++cured;
  const auto at = round_down(reinterpret_cast<std::uintptr_t>(info->si_addr), page_size());
  mmap(reinterpret_cast<void*>(at), page_size(), PROT_READ | PROT_WRITE,  // NOLINT: an address
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}
// Like Python's faulthandler: says something, restores what it has found, raises the signal again.
struct sigaction found_by_reporter {};
void report(int signal) {
  (void)!write(STDERR_FILENO, "reported\n", 9);
  sigaction(signal, &found_by_reporter, nullptr);
  raise(signal);
}
void install_reporter(int flags = SA_NODEFER | SA_ONSTACK) {
  struct sigaction action {};
  action.sa_handler = report;
  action.sa_flags = flags;
  sigaction(SIGBUS, &action, &found_by_reporter);
}
// Like breakpad: restores what it has found and returns, so that the fault comes again.
void report_and_return(int signal) {
  (void)!write(STDERR_FILENO, "reported\n", 9);
  sigaction(signal, &found_by_reporter, nullptr);
}

std::byte load(const volatile std::byte* address) { return *address; }

class Guarded : public testing::MappedFile {
 protected:
  Guarded() : before_(present_action()) { set_action(SIG_DFL); }
  ~Guarded() override {
    view_.reset();
    sigaction(SIGBUS, &before_, nullptr);
  }
  // A page that nobody guards and whose file has lost it.
  volatile std::byte* foreign() {
    const std::string path = directory_.write("foreign", kSeed, page_size());
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    void* const page = mmap(nullptr, page_size(), PROT_READ, MAP_SHARED, fd, 0);
    ::close(fd);
    EXPECT_NE(page, MAP_FAILED);
    EXPECT_EQ(truncate(path.c_str(), 0), 0);
    return static_cast<volatile std::byte*>(page);
  }

  const struct sigaction before_;
};

TEST_F(Guarded, LostPagesAreZerosAndAreNoticed) {
  map(5 * kMiB + 7);
  const std::uint64_t count = lost_page_count();
  EXPECT_FALSE(view_->has_lost_pages());
  cut(page_size());
  EXPECT_FALSE(view_->has_lost_pages());
  for (std::uint64_t at = page_size(); at < 5 * kMiB + 7; ++at) {
    ASSERT_EQ(view_->data()[at], std::byte{0}) << at;
  }
  EXPECT_TRUE(view_->has_lost_pages());
  EXPECT_EQ(lost_page_count() - count, 3U);  // by the huge page, not by the page
  EXPECT_EQ(view_->data()[5], static_cast<std::byte>(testing::pattern(kSeed, 5)));
  view_->data()[kMiB] = std::byte{3};
  EXPECT_EQ(view_->data()[kMiB], std::byte{3});
}

TEST_F(Guarded, WritesToLostPagesSucceed) {
  map(kMiB);
  cut(0);
  view_->data()[100] = std::byte{7};
  EXPECT_EQ(view_->data()[100], std::byte{7});
  EXPECT_TRUE(view_->has_lost_pages());
}

TEST_F(Guarded, MemoryInThePlaceOfPagesStays) {
  map(kMiB);
  EXPECT_EQ(view_->detach(512 * kKiB, 256 * kKiB, map_memory(256 * kKiB)), 0);
  cut(0);
  EXPECT_EQ(view_->data()[256 * kKiB], std::byte{0});
  EXPECT_TRUE(testing::matches(view_->data() + 512 * kKiB, kSeed, 512 * kKiB, 256 * kKiB));
  EXPECT_EQ(view_->data()[800 * kKiB], std::byte{0});
}

TEST_F(Guarded, ManyThreadsAtOnce) {
  map(16 * kMiB);
  cut(0);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (std::uint64_t at = 0; at < 16 * kMiB; at += page_size()) {
        if (view_->data()[at] != std::byte{0}) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(Guarded, ManyMappingsComeAndGo) {
  std::vector<std::unique_ptr<FileView>> views;
  open(3 * page_size());
  int os_error = 0;
  for (int i = 0; i < 50; ++i) {
    views.push_back(FileView::map(fd_, 3 * page_size(), true, &os_error));
    if (i % 3 == 2) views.erase(views.begin() + i / 5);
  }
  cut(0);
  for (std::size_t i = 0; i < views.size(); i += 2) {
    EXPECT_EQ(views[i]->data()[page_size()], std::byte{0});
  }
  for (std::size_t i = 0; i < views.size(); ++i) {
    EXPECT_EQ(views[i]->has_lost_pages(), i % 2 == 0);
  }
}

TEST_F(Guarded, TheHandlerIsThereWhileThereAreGuards) {
  EXPECT_EQ(present_action().sa_handler, SIG_DFL);
  map(kMiB, /*guarded=*/false);
  EXPECT_EQ(present_action().sa_handler, SIG_DFL);
  map(kMiB);
  EXPECT_NE(present_action().sa_handler, SIG_DFL);
  view_->end_guard();
  EXPECT_EQ(present_action().sa_handler, SIG_DFL);
}

TEST_F(Guarded, AChildIsGuardedToo) {
  map(kMiB);
  cut(0);
  const pid_t child = fork();
  if (child == 0) {
    const bool zero = view_->data()[5] == std::byte{0};
    view_.reset();
    _exit(zero ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(view_->has_lost_pages());
}

TEST_F(Guarded, AFormerHandlerGetsWhatIsItsOwn) {
  set_action(cure);
  map(kMiB);
  cut(0);
  cured = 0;
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(load(foreign()), std::byte{0});
    EXPECT_EQ(view_->data()[100], std::byte{0});
  }
  EXPECT_EQ(cured, 20);
  view_.reset();
  EXPECT_EQ(present_action().sa_sigaction, cure);
}

TEST_F(Guarded, ALaterHandlerGetsWhatIsItsOwn) {
  map(kMiB);
  cut(0);
  set_action(cure);
  ViewGuard::renew();
  cured = 0;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(load(foreign()), std::byte{0});
  EXPECT_EQ(view_->data()[100], std::byte{0});
  EXPECT_EQ(cured, 20);
  view_.reset();
  EXPECT_EQ(present_action().sa_sigaction, cure);
}

TEST_F(Guarded, ALaterHandlerThatPassesOnReachesTheGuard) {
  map(kMiB);
  cut(0);
  static struct sigaction below {};
  sigaction(SIGBUS, nullptr, &below);
  set_action([](int signal, siginfo_t* info, void* context) {
    below.sa_sigaction(signal, info, context);
  });
  EXPECT_EQ(view_->data()[100], std::byte{0});
  ViewGuard::renew();
  EXPECT_EQ(view_->data()[kMiB - 1], std::byte{0});
  EXPECT_TRUE(view_->has_lost_pages());
}

TEST_F(Guarded, ASignalThatAProcessSendsIsPassedOn) {
  static std::atomic<int> received{0};
  received = 0;
  set_action([](int) { ++received; });
  map(kMiB);
  raise(SIGBUS);
  kill(getpid(), SIGBUS);
  EXPECT_EQ(received, 2);
  set_action(SIG_IGN);
  ViewGuard::renew();
  raise(SIGBUS);
  EXPECT_EQ(received, 2);
}

// The child of a statement that is to end it. Without what ends it, a fault comes again for ever.
class GuardedDeath : public Guarded {
 protected:
  static void fault(volatile std::byte* lost) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(60);
    (void)*lost;
  }
};

TEST_F(GuardedDeath, AForeignFaultEndsTheProcess) {
  const auto killed = ::testing::KilledBySignal(SIGBUS);
  map(kMiB);
  volatile std::byte* const lost = foreign();
  EXPECT_EXIT(fault(lost), killed, "");
  EXPECT_EXIT(raise(SIGBUS), killed, "");
  EXPECT_EXIT(kill(getpid(), SIGBUS), killed, "");
  set_action(SIG_IGN);
  ViewGuard::renew();
  EXPECT_EXIT(fault(lost), killed, "");
}

TEST_F(GuardedDeath, AnAccessToAViewWithoutAGuardEndsTheProcess) {
  map(kMiB);
  cut(0);
  view_->end_guard();
  EXPECT_EXIT(fault(view_->data()), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(GuardedDeath, AReporterIsCalledOnceWheneverItWasInstalled) {
  const auto killed = ::testing::KilledBySignal(SIGBUS);
  volatile std::byte* const lost = foreign();
  const auto once = "^reported\n$";
  install_reporter();
  map(kMiB);
  EXPECT_EXIT(fault(lost), killed, once);
  EXPECT_EXIT(raise(SIGBUS), killed, once);
  view_.reset();

  set_action(SIG_DFL);
  map(kMiB);
  install_reporter();
  EXPECT_EXIT(fault(lost), killed, once);
  ViewGuard::renew();
  EXPECT_EXIT(fault(lost), killed, once);
  EXPECT_EXIT(raise(SIGBUS), killed, once);
  // It is installed a second time, now over the guard's.
  install_reporter();
  ViewGuard::renew();
  EXPECT_EXIT(fault(lost), killed, "^(reported\n)+$");
  view_.reset();

  // Its own signal comes when it has returned.
  set_action(SIG_DFL);
  map(kMiB);
  install_reporter(/*flags=*/0);
  ViewGuard::renew();
  EXPECT_EXIT(fault(lost), killed, once);
}

struct sigaction called_by_wrapper {};
void wrap(int signal, siginfo_t* info, void* context) {
  called_by_wrapper.sa_sigaction(signal, info, context);
}

TEST_F(GuardedDeath, AReporterIsCalledOnceIfTheCallerOfTheHandlerBlocksTheSignal) {
  install_reporter();
  map(kMiB);
  struct sigaction wrapper {};
  wrapper.sa_sigaction = wrap;
  wrapper.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&wrapper.sa_mask);
  sigaction(SIGBUS, &wrapper, &called_by_wrapper);
  found_by_reporter = wrapper;
  EXPECT_EXIT(fault(foreign()), ::testing::KilledBySignal(SIGBUS), "^reported\n$");
}

TEST_F(GuardedDeath, HandlersThatReturnWithoutACureEndTheProcess) {
  const auto killed = ::testing::KilledBySignal(SIGBUS);
  volatile std::byte* const lost = foreign();
  map(kMiB);
  sigaction(SIGBUS, nullptr, &found_by_reporter);
  set_action(report_and_return);
  ViewGuard::renew();
  EXPECT_EXIT(fault(lost), killed, "^(reported\n){1,10}$");
  set_action([](int) {});
  ViewGuard::renew();
  EXPECT_EXIT(fault(lost), killed, "^$");
}

}  // namespace
}  // namespace streamer

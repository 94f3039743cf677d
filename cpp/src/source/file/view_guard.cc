#include "source/file/view_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <new>

#include "base/fork_lock.h"
#include "base/memory_units.h"
#include "source/lost_pages.h"

namespace streamer {

// An entry of a list that signal handlers walk: entries are used again, and never freed.
struct ViewGuard::Mapping {
  std::atomic<std::uintptr_t> start{0};
  std::atomic<std::uintptr_t> end{0};             // 0: not in use. Set last and cleared first
  std::atomic<unsigned char*> replaced{nullptr};  // by huge page of the mapping
  std::atomic<bool> lost{false};
  Mapping* next = nullptr;       // in the list
  Mapping* next_free = nullptr;  // under the lock
};

namespace {

// An action that was found in the place for the handler. They are never freed: a handler may be in
// the middle of one.
struct Former {
  struct sigaction action {};
  const Former* below = nullptr;  // the one before this one; null: the default
  Former* next = nullptr;
};

// The state that a handler reads.
std::atomic<ViewGuard::Mapping*> mappings{nullptr};
std::atomic<const Former*> former{nullptr};  // the next to call; null: the default
std::atomic<std::uint64_t> lost_pages{0};
std::atomic<std::size_t> guards{0};
std::atomic<std::uintptr_t> passed_address{0};
std::atomic<int> passed_times{0};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free &&
              std::atomic<const Former*>::is_always_lock_free);

// The lock is free in a forked child.
ForkLock& lock() {
  static auto* const one = new ForkLock;  // for threads that outlive static objects
  return *one;
}
// Under the lock.
ViewGuard::Mapping* free_mappings = nullptr;
Former* formers = nullptr;
const Former* top = nullptr;  // the action that the handler has replaced

// A handler that returns so often without a cure of the same fault will not find one.
constexpr int kMostReturns = 8;

ViewGuard::Mapping* find(std::uintptr_t address) {
  for (auto* one = mappings.load(); one != nullptr; one = one->next) {
    const std::uintptr_t end = one->end.load();
    if (address >= end || address < one->start.load()) continue;
    if (one->end.load() == end) return one;  // else it became another one meanwhile
  }
  return nullptr;
}

// Zeros for the lost page at `address`, and for those behind it up to the next huge page: they are
// lost, too. But not for memory that has taken the place of pages.
bool give_zeros(std::uintptr_t address) {
  ViewGuard::Mapping* const mapping = find(address);
  if (mapping == nullptr) return false;
  const std::uintptr_t start = mapping->start.load();
  const std::uintptr_t page = round_down(address, page_size());
  const std::uint64_t huge = (page - start) / kHugePage;
  std::uintptr_t end = page + page_size();
  if (std::atomic_ref<unsigned char>(mapping->replaced.load()[huge]).load() == 0) {
    end = std::min(start + (huge + 1) * kHugePage, round_up(mapping->end.load(), page_size()));
  }
  mapping->lost.store(true);
  lost_pages.fetch_add(1);
  // By itself, without the wrappers of tools around mmap().
  return syscall(SYS_mmap, page, end - page, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != -1;
}

bool sent_by_a_process(const siginfo_t* info) { return info->si_code <= 0; }

// As if there were no handler: a fault that is not cured comes again, and then ends the process.
void act_by_default(int signal, const siginfo_t* info) {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  if (sent_by_a_process(info)) syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
}

// Calls the action that was there before. While it runs, the one before that is next: a handler
// that restores ours, since it has found that, and raises the signal again must not come back to
// itself for ever.
void pass_on(int signal, siginfo_t* info, void* context) {
  const Former* const next = former.load();
  const bool none = next == nullptr || next->action.sa_handler == SIG_DFL;
  const bool ignores = !none && next->action.sa_handler == SIG_IGN;
  if (ignores && sent_by_a_process(info)) return;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (!sent_by_a_process(info) && passed_address.exchange(address) != address) passed_times = 0;
  if (none || ignores || passed_times > kMostReturns) return act_by_default(signal, info);
  const Former* const below = next->below;
  former.store(below);
  sigset_t mask = next->action.sa_mask;
  if ((next->action.sa_flags & SA_NODEFER) == 0) sigaddset(&mask, signal);
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &mask, &before);
  if ((next->action.sa_flags & SA_SIGINFO) != 0) {
    next->action.sa_sigaction(signal, info, context);
  } else {
    next->action.sa_handler(signal);
  }
  if (!sent_by_a_process(info)) ++passed_times;
  // A signal that it has raised comes now, also if the caller of this handler blocks it.
  sigset_t unblocked = before;
  sigdelset(&unblocked, signal);
  pthread_sigmask(SIG_SETMASK, &unblocked, nullptr);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  const Former* expected = below;
  former.compare_exchange_strong(expected, next);
}

// Only functions that signal-safety(7) allows, and one system call.
void handle(int signal, siginfo_t* info, void* context) {
  const int os_error = errno;
  const bool ours =
      info->si_code == BUS_ADRERR && give_zeros(reinterpret_cast<std::uintptr_t>(info->si_addr));
  if (!ours) pass_on(signal, info, context);
  errno = os_error;
}

bool is_ours(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == handle;
}

// The C library leaves the rest of a mask, which is larger than the system's, as it was.
bool same(const struct sigaction& one, const struct sigaction& other) {
  if (one.sa_flags != other.sa_flags || one.sa_sigaction != other.sa_sigaction) return false;
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    if (sigismember(&one.sa_mask, signal) != sigismember(&other.sa_mask, signal)) return false;
  }
  return true;
}

// Under the lock.
const Former* remember(const struct sigaction& action) {
  for (Former* one = formers; one != nullptr; one = one->next) {
    if (same(one->action, action)) return one;
  }
  auto* const made = new Former{action, top, formers};
  formers = made;
  return made;
}

void take_place_of(const struct sigaction& action) {
  top = remember(action);
  former.store(top);
}

}  // namespace

std::uint64_t lost_page_count() { return lost_pages.load(std::memory_order_relaxed); }
void renew_view_guards() { ViewGuard::renew(); }

// Under the lock. True if the handler is there.
bool ViewGuard::install() {
  struct sigaction present {};
  if (sigaction(SIGBUS, nullptr, &present) != 0) return false;
  (void)page_size();  // asks the system once: not in a signal handler
  if (is_ours(present)) {
    former.store(top);
    return true;
  }
  take_place_of(present);
  struct sigaction ours {};
  ours.sa_sigaction = handle;
  // On the stack for signals if the thread has one. Not deferred: a handler that it is passed to
  // may raise the signal, and expects it at once.
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
  struct sigaction replaced {};
  if (sigaction(SIGBUS, &ours, &replaced) != 0) return false;
  if (!is_ours(replaced) && !same(replaced, present)) take_place_of(replaced);
  return true;
}

void ViewGuard::renew() {
  if (guards == 0) return;
  struct sigaction present {};
  if (sigaction(SIGBUS, nullptr, &present) != 0 || is_ours(present)) return;
  const std::lock_guard locked(lock());
  if (guards > 0) install();
}

std::unique_ptr<ViewGuard> ViewGuard::make(std::byte* data, std::uint64_t size) {
  auto replaced = std::make_unique<unsigned char[]>(size / kHugePage + 1);
  const std::lock_guard locked(lock());
  if (!install()) return nullptr;
  Mapping* mapping = free_mappings;
  if (mapping == nullptr) {
    mapping = new Mapping;
    mapping->next = mappings.load();
    mappings.store(mapping);
    free_mappings = mapping;
  }
  std::unique_ptr<ViewGuard> guard(new ViewGuard(mapping, std::move(replaced)));
  free_mappings = mapping->next_free;
  ++guards;
  const auto start = reinterpret_cast<std::uintptr_t>(data);
  mapping->lost.store(false);
  mapping->replaced.store(guard->replaced_.get());
  mapping->start.store(start);
  mapping->end.store(start + size);
  return guard;
}

ViewGuard::ViewGuard(Mapping* mapping, std::unique_ptr<unsigned char[]> replaced)
    : mapping_(mapping), replaced_(std::move(replaced)) {}

ViewGuard::~ViewGuard() {
  const std::lock_guard locked(lock());
  mapping_->end.store(0);
  mapping_->next_free = free_mappings;
  free_mappings = mapping_;
  if (--guards > 0) return;
  // A handler that was installed later knows ours, which stays good.
  struct sigaction present {};
  if (sigaction(SIGBUS, nullptr, &present) == 0 && is_ours(present)) {
    sigaction(SIGBUS, &top->action, nullptr);
    former.store(top->below);
  }
}

void ViewGuard::replacing(std::uint64_t offset, std::uint64_t size) {
  for (std::uint64_t huge = offset / kHugePage; huge <= (offset + size - 1) / kHugePage; ++huge) {
    std::atomic_ref<unsigned char>(replaced_[huge]).store(1);
  }
}

bool ViewGuard::has_lost_pages() const { return mapping_->lost.load(); }

}  // namespace streamer

#include "world.h"

#include <algorithm>

namespace standin {

World& world() {
  static auto* const instance = new World;
  return *instance;
}

ThreadState& thread_state() {
  static thread_local ThreadState state;
  return state;
}

ThreadState::~ThreadState() {
  if (pushed == 0 && capture_mode == 0) return;
  const std::lock_guard lock(world().mutex);
  violate("a thread ended and left a context or a capture mode behind", 0);
}

ContextImpl* current() {
  const auto& contexts = thread_state().contexts;
  return contexts.empty() ? nullptr : contexts.back();
}

ContextImpl* primary(int device) { return world().contexts[static_cast<size_t>(device)].get(); }

bool no_device(int device) { return device < 0 || device >= world().devices; }

bool failed(int device) {
  const auto& contexts = world().contexts;
  return std::any_of(contexts.begin(), contexts.end(), [&](const auto& context) {
    return context->device == device && context->sticky != 0;
  });
}

int injected(const std::string& function) {
  World& w = world();
  const auto it = w.failures.find(function);
  if (it == w.failures.end()) return kSuccess;
  Failure& failure = it->second;
  if (failure.after > 0) {
    --failure.after;
    return kSuccess;
  }
  const int code = failure.code;
  if (failure.sticky && current() != nullptr) current()->sticky = code;
  if (--failure.times <= 0) w.failures.erase(it);
  return code;
}

}  // namespace standin

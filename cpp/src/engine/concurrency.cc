#include "engine/concurrency.h"

namespace streamer {

ConcurrencyController::ConcurrencyController(int fixed, const SourceTraits& traits)
    : limit_(fixed > 0 ? fixed : traits.initial_concurrency),
      maximum_(fixed > 0 ? fixed : traits.max_concurrency) {}

void ConcurrencyController::completed(std::uint64_t /*bytes*/, int /*active*/, bool /*congested*/,
                                      std::chrono::steady_clock::time_point /*now*/) {}

}  // namespace streamer

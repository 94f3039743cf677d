#include "source/http/verifier.h"

#include <optional>
#include <string>

#include "base/segments.h"
#include "source/http/client/retry.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

// A digest of a larger object would take long.
constexpr std::uint64_t kLargestDigest = 1 << 20;
// By default a checksum is asked for if that, and the comparison, take less than 3 % of the time:
// of large objects of stores that are so far away (seconds until a response begins) that the
// network paces each connection.
constexpr std::uint64_t kLargeObject = 64 << 20;
constexpr double kFar = 0.005;

Status wrong_content() {
  return Status::error(Code::kIo, "the bytes that arrived do not match the object's checksum")
      .with_hint(
          "The object or the connection damages data; RUNAI_STREAMER_VERIFY_CHECKSUMS=0 "
          "reads it all the same");
}

}  // namespace

std::unique_ptr<ContentCheck> Verifier::make_check(const Response& response, std::uint64_t size,
                                                   std::span<const std::byte> prefix,
                                                   bool* later) const {
  if (chosen_ == Verify::kNone) return nullptr;
  // If it has to be asked for, one that comes with a part may be that of the part.
  std::optional<Checksum> checksum;
  if (!protocol_.has_checksum_request()) checksum = protocol_.checksum_of(response);
  const bool cheap = size >= kLargeObject && connection_.transport().latency >= kFar;
  *later = !checksum && (chosen_ == Verify::kAll || cheap) && protocol_.has_checksum_request();
  if (!checksum && !*later) return nullptr;
  auto check = std::make_unique<ContentCheck>(size, prefix);
  if (checksum) check->expect(*checksum);
  return check;
}

// The bytes that opening has read may be the whole object.
Status Verifier::verify_opened(const HttpObject& object, const iovec& prefix,
                               const Response& response) {
  if (prefix.iov_len < object.size()) return {};
  ask(object);
  if (object.check() != nullptr && object.checksum_known()) {
    if (object.check()->failed()) return wrong_content();
    ++verified_;
  }
  return verify_whole(object, {&prefix, 1}, response);
}

// `segments` are the whole object, which came with one response.
Status Verifier::verify_whole(const HttpObject& object, std::span<const iovec> segments,
                              const Response& response) {
  if (chosen_ == Verify::kNone || (chosen_ == Verify::kCheap && object.size() > kLargestDigest)) {
    return {};
  }
  const std::string expected = protocol_.md5_of(response);
  if (expected.empty()) return {};
  const std::string digest = md5(segments);
  if (digest.empty()) return {};
  if (digest != expected) return wrong_content();
  ++verified_;
  return {};
}

// By one attempt: if it does not return a checksum, nothing is compared.
void Verifier::ask(const HttpObject& object) {
  if (object.later() == nullptr || !object.later()->claim()) return;
  std::optional<Checksum> checksum;
  const auto send = [&] {
    const auto credentials = protocol_.credentials(object.location(), connection_);
    if (!credentials.ok()) return;
    auto request =
        protocol_.make_checksum_request(object.location(), object.pinned(), *credentials);
    if (!request.ok()) return;
    request->timeout_ms = kHurry;
    Response response;
    BodySink nothing;
    const TransferResult outcome = connection_.perform(*request, &response, &nothing);
    if (outcome.status.ok() && response.status == 200) checksum = protocol_.checksum_of(response);
  };
  try {
    send();
  } catch (...) {
    object.later()->answer(std::nullopt, object.check());
    throw;
  }
  object.later()->answer(checksum, object.check());
}

Status Verifier::verify(const HttpObject& object, std::uint64_t offset,
                        std::span<const iovec> segments, const Response& response,
                        const RunningSum& sum) {
  using Verdict = ContentCheck::Verdict;
  ContentCheck* const check = object.check();
  if (check != nullptr && object.checksum_known()) {
    const Verdict verdict =
        sum.size == 0 ? check->add(offset, segments) : check->add_sum(offset, sum.size, sum.value);
    if (verdict == Verdict::kDiffers) return wrong_content();
    if (verdict == Verdict::kMatches) ++verified_;
  }
  return total_bytes(segments) == object.size() ? verify_whole(object, segments, response)
                                                : Status();
}

}  // namespace streamer::http

// A bound of the size of a list.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>

#include "source/http/protocol.h"
#include "streamer/status.h"

namespace streamer::http {

// The size of a list so far.
class ListBudget {
 public:
  // Not ok: the page is one that the list has had, or it makes the list larger than is read.
  Status add(const ListPage& page) {
    if (!page.next.empty() && !seen_.insert(std::hash<std::string>()(page.next)).second) {
      return Status::error(Code::kIo, "the server repeats a page of the list");
    }
    for (const ListPage::Entry& entry : page.entries)
      bytes_ += entry.key.size() + entry.path.size() + entry.version.size() + entry.sha256.size();
    listed_ += page.entries.size();
    if (++pages_ <= kMaxPages && listed_ <= kMaxListed && bytes_ <= kMaxListedBytes) return {};
    return Status::error(Code::kUnsupported, "the list does not end: " + std::to_string(pages_) +
                                                 " pages have " + std::to_string(listed_) +
                                                 " objects")
        .with_hint(
            "Lists end at 100,000 pages, 10 million objects or 1 GiB of names. Name a "
            "directory further down");
  }

 private:
  // The most that a list may bring, over all its pages.
  static constexpr std::uint64_t kMaxPages = 100'000;
  static constexpr std::uint64_t kMaxListed = 10'000'000;
  static constexpr std::uint64_t kMaxListedBytes = std::uint64_t{1} << 30;
  std::set<std::size_t> seen_;  // hashes of the names of pages
  std::uint64_t pages_ = 0;
  std::uint64_t listed_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace streamer::http

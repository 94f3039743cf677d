#include "source/http/http_reader.h"

#include <functional>
#include <optional>
#include <vector>

#include "base/segments.h"
#include "source/http/client/proxy.h"
#include "source/http/client/retry.h"
#include "source/http/content_samples.h"
#include "source/http/error_status.h"
#include "source/http/list_budget.h"
#include "text/url.h"

namespace streamer::http {
namespace {

// The first attempt at a small read (kHurry) or at a page of a list is aborted if it takes longer
// than most do, the second one at four times that.
constexpr int kHurryList = 20'000;  // milliseconds
constexpr std::uint64_t kSmallRead = 4 << 20;

}  // namespace

Status HttpReader::read_range(const Location& location, RangeRead* range, Response* response,
                              ReadReport* report, bool tolerate_416, int hurry_ms) {
  const auto replaced = [&](const ServerError* error) {
    if (error == nullptr) return range->other_snapshot();
    const bool gone = error->code == Code::kNotFound;
    return (gone || error->code == Code::kChanged) && range->read_by_id(gone);
  };
  Operation operation{
      .location = location,
      .make =
          [&](const CredentialsRef& credentials) {
            return protocol_.make_read(location, range->missing(), range->version(), credentials);
          },
      .body = [&] { return range->next_body(); },
      .progress =
          [&](bool* done) {
            const std::uint64_t bytes = range->take();
            *done = !range->missing() || range->aborted();
            return bytes;
          },
      .changed = replaced,
      .tolerate = [&](const Response& r) { return tolerate_416 && r.status == 416; },
      .watched = report->progress,
      .hurry_ms = hurry_ms,
      .foreign = [&] { return range->foreign(); },
      .cut_off = [&] { return range->cut_off(); }};
  // A server may send less than was asked for, as long as it sends something.
  while (range->missing() && !range->aborted()) {
    const std::uint64_t before = range->received();
    if (Status status = loop_.perform(operation, response, report); !status.ok()) return status;
    if (response->status == 416) return {};
    if (range->missing() && range->received() == before && !range->aborted()) {
      return Status::error(Code::kShortRead, "the server sent none of the bytes asked for");
    }
  }
  return {};
}

Result<Opened> HttpReader::open_listed(const std::string& path, const std::string& version,
                                       std::span<std::byte> prefix) {
  Result<Location> location = protocol_.locate(path, /*directory=*/false);
  if (!location.ok()) return location.status();
  std::byte one{};
  iovec target{&one, 1};  // the size comes with at least one byte
  if (!prefix.empty()) target = {prefix.data(), prefix.size()};
  Version listed = protocol_.listed_version(*location, version);
  listed.id = location->version_id;
  listed.by_id = !listed.id.empty();
  RangeRead range(protocol_, *location, 0, {&target, 1}, std::nullopt, std::move(listed));
  Response response;
  ReadReport report;
  Status status = read_range(*location, &range, &response, &report, /*tolerate_416=*/true,
                             source_.traits().stragglers ? kHurry : 0);
  const bool nothing =
      status.code() == Code::kShortRead && response.header("content-length") == "0";
  if (nothing || (status.ok() && response.status == 416)) {
    return open_empty(std::move(*location));
  }
  if (!status.ok()) return std::move(status).with_path(path);
  const std::uint64_t size = *range.object_size();
  const std::uint64_t prefix_size = prefix.empty() ? 0 : range.received();
  if (Status known = source_.note_opened(*location, range.version(), response); !known.ok()) {
    return std::move(known).with_path(path);
  }
  bool later = false;
  auto check = verifier_.make_check(response, size, prefix.first(prefix_size), &later);
  std::unique_ptr<ContentSamples> samples;
  if (!pins_content(range.version(), response)) {
    samples = std::make_unique<ContentSamples>(prefix.first(prefix_size));
  }
  auto object = std::make_shared<HttpObject>(std::move(*location), size, range.version(),
                                             std::move(check), later, std::move(samples));
  const iovec first{prefix.data(), prefix_size};
  if (Status known = verifier_.verify_opened(*object, first, response); !known.ok()) {
    return std::move(known).with_path(path).with_range(0, size);
  }
  return Opened{std::move(object), prefix_size};
}

// No range of an empty object can be asked for; the whole of it can.
Result<Opened> HttpReader::open_empty(Location location) {
  Response response;
  ReadReport report;
  BodySink body;
  body.accept = [](const Response& head) {
    if (head.header("content-length") == "0") return Status();
    return Status::error(Code::kIo, "the server refuses ranges of an object that is not empty");
  };
  Operation operation{.location = location,
                      .make =
                          [&](const CredentialsRef& credentials) {
                            return protocol_.make_read(location, std::nullopt, {}, credentials);
                          },
                      .body = [&] { return &body; },
                      .progress = {},
                      .changed = {},
                      .tolerate = {},
                      .watched = nullptr,
                      .hurry_ms = 0};
  if (Status status = loop_.perform(operation, &response, &report); !status.ok()) {
    return std::move(status).with_path(location.path);
  }
  Version version = protocol_.version_of(response);
  return Opened{std::make_shared<HttpObject>(std::move(location), 0, std::move(version), nullptr,
                                             false, nullptr),
                0};
}

Status HttpReader::read(const Object& object, std::uint64_t offset, std::span<const iovec> segments,
                        ReadReport* report) {
  const auto& known = static_cast<const HttpObject&>(object);
  const std::uint64_t size = total_bytes(segments);
  report->strategy = source_.name();
  if (size > object.size() || offset > object.size() - size) {
    return Status::error(Code::kShortRead, "the object ends before the range does; it has " +
                                               std::to_string(object.size()) + " bytes")
        .with_path(object.path())
        .with_range(offset, size);
  }
  const Version pinned = known.pinned();
  // While others read the bytes behind it: no read waits for the answer.
  verifier_.ask(known);
  RangeRead range(protocol_, known.location(), offset, segments, object.size(), pinned);
  range.watch(report->progress);
  const bool everything = !has_gap(segments);  // else the object is not read as a whole
  RunningSum sum;
  if (everything && known.can_add_up(offset)) {
    sum.add = known.check()->adder();
    range.add_up(&sum);
  }
  Response response;
  // Nothing else watches the rest of a long header.
  const bool hurry =
      report->progress == nullptr && size <= kSmallRead && source_.traits().stragglers;
  Status status = read_range(known.location(), &range, &response, report, /*tolerate_416=*/false,
                             hurry ? kHurry : 0);
  report->missing = size - range.received();
  if (range.version().by_id && !known.names_version()) {
    if (status.ok()) {
      // An aborted read does not prove that the store gives the former version.
      if (!range.aborted()) known.note_replaced();
    } else if (!range.gone() || status.code() != Code::kNotFound) {
      status = replaced(std::move(status));
    }
  }
  if (status.ok() && everything) {
    const auto received = first_bytes(segments, range.received());
    status = verifier_.verify(known, offset, received, response, sum);
    if (!status.ok()) status = std::move(status).with_range(0, object.size());
  }
  if (status.ok() && known.samples() != nullptr) {
    status = compare_sample(known, report);
    // Only then, so that all samples are of the first content.
    if (status.ok()) known.samples()->keep(offset, first_bytes(segments, range.received()));
  }
  return std::move(status).with_path(object.path()).with_range(offset, size);
}

// Reads something again that an earlier read has brought.
Status HttpReader::compare_sample(const HttpObject& object, ReadReport* report) {
  const auto sample = object.samples()->next();
  if (!sample) return {};
  std::vector<std::byte> bytes(sample->bytes.size());
  const iovec target{bytes.data(), bytes.size()};
  RangeRead range(protocol_, object.location(), sample->offset, {&target, 1}, object.size(),
                  object.pinned());
  Response response;
  ReadReport own;
  Status status = read_range(object.location(), &range, &response, &own, /*tolerate_416=*/false,
                             source_.traits().stragglers ? kHurry : 0);
  report->retries += own.retries;
  if (!status.ok() || bytes == sample->bytes) return status;
  return Status::error(Code::kChanged,
                       "the object was replaced while it was read: its bytes from " +
                           std::to_string(sample->offset) + " on are others than before")
      .with_hint("Load again; the server sends nothing that names a version of the object");
}

Status HttpReader::list(const std::string& prefix, bool recursive, const ListCallback& found) {
  Result<Location> directory = protocol_.locate(prefix, /*directory=*/true);
  if (!directory.ok()) return directory.status();
  std::string base = prefix;
  while (base.ends_with('/')) base.pop_back();
  Result<CredentialsRef> who = protocol_.credentials(*directory, connection_);
  if (!who.ok()) return loop_.from_endpoint(who.status().with_path(prefix), *directory, nullptr);
  if (Status status = protocol_.prepare_list(*directory, *who, connection_); !status.ok()) {
    return loop_.from_endpoint(std::move(status).with_path(prefix), *directory, *who);
  }
  std::string next;
  ReadReport report;
  ListBudget budget;
  do {
    Response response;
    Operation operation{.location = *directory,
                        .make =
                            [&](const CredentialsRef& credentials) {
                              return protocol_.make_list(*directory, recursive, next, credentials);
                            },
                        .body = {},
                        .progress = {},
                        .changed = {},
                        .tolerate = [&](const Response& r) { return protocol_.is_empty_list(r); },
                        .watched = nullptr,
                        .hurry_ms = source_.traits().stragglers ? kHurryList : 0,
                        .begins_late = true};
    if (Status status = loop_.perform(operation, &response, &report); !status.ok()) {
      return std::move(status).with_path(prefix);
    }
    if (protocol_.is_empty_list(response)) return {};
    Result<ListPage> page = protocol_.read_list(*directory, recursive, next, response);
    if (!page.ok()) {
      const bool other = page.status().code() == Code::kIo && is_html(response);
      Status status = other ? sent_a_page(response, "list") : page.status();
      return loop_.from_endpoint(std::move(status).with_path(prefix), *directory, *who);
    }
    if (Status status = budget.add(*page); !status.ok()) {
      return loop_.from_endpoint(std::move(status).with_path(prefix), *directory, *who);
    }
    for (ListPage::Entry& entry : page->entries) {
      if (!entry.path.empty()) {
        found(
            {std::move(entry.path), entry.size, std::move(entry.version), std::move(entry.sha256)});
      } else if (entry.key.starts_with(directory->key) &&
                 entry.key.size() > directory->key.size()) {
        found({base + "/" + entry.key.substr(directory->key.size()), entry.size,
               std::move(entry.version), std::move(entry.sha256)});
      }
    }
    next = std::move(page->next);
  } while (!next.empty());
  return {};
}

Result<Access> HttpReader::access(const std::string& path) {
  Result<Location> location = protocol_.locate(path, /*directory=*/true);
  if (!location.ok()) return location.status();
  Access found;
  found.container = location->container;
  found.key = location->key;
  CredentialsRef known;
  if (Result<CredentialsRef> who = protocol_.credentials(*location, connection_); who.ok()) {
    known = *who;
  } else {
    found.credentials = who.status();
  }
  if (known) {
    found.identity = known->identity;
    found.expires_at = known->expires_at;
  }
  const Endpoint endpoint = protocol_.endpoint(*location, known.get());
  found.endpoint = endpoint.url;
  found.endpoint_from = endpoint.from;
  found.region = endpoint.region;
  if (const Result<Url> url = parse_url(endpoint.url); url.ok()) {
    found.host = endpoint.host.empty() ? url->authority() : endpoint.host;
    const auto proxy = proxy_of(*url);
    if (!proxy.ok()) return proxy.status().with_path(path);
    if (*proxy) {
      found.proxy = (*proxy)->scheme + "://" + (*proxy)->shown();
      found.proxy_from = (*proxy)->variable;
    }
  }
  found.ca_file = source_.transport().settings.trust.file;
  found.ca_directory = source_.transport().settings.trust.directory;
  return found;
}

}  // namespace streamer::http

// Any text as the responses of a server, as a sequence of pages of one list, to every protocol: a
// list or an error, no entry outside of the listed directory, and no secret for another origin.
//
// The input is text. Its first line is "KIND LIST PATH": s3, gs, az, https or hf; "all" or "one"
// for recursive or not; the path to list. Responses follow, each after a line "----": a status,
// then headers, an empty line, the body.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "base/text.h"
#include "source/http/client/origin.h"
#include "source/http/client/request_log.h"
#include "source/http/client/retry.h"
#include "source/http/protocol.h"
#include "source/http/range_read.h"
#include "source/http/redirects.h"

namespace streamer::http {

// No connection is made.
struct Connection::Impl {};
Connection::Connection(Transport& transport) : transport_(transport) {}
Connection::~Connection() = default;
Result<Response> Connection::fetch(Request, Persistence) {
  return Status::error(Code::kNetwork, "none");
}

namespace {

constexpr std::string_view kSecret = "s3cr3t";
constexpr int kMostPages = 12;

[[noreturn]] void fail(const char* what, const std::string& text) {
  std::fprintf(stderr, "%s: %s\n", what, text.c_str());
  std::abort();
}

// Takes the text up to `end` off the front, and `end`.
std::string_view take(std::string_view* rest, std::string_view end) {
  const std::size_t at = rest->find(end);
  const std::string_view part = rest->substr(0, at);
  rest->remove_prefix(at == std::string_view::npos ? rest->size() : at + end.size());
  return part;
}

Response take_response(std::string_view* rest, const std::string& url) {
  std::string_view text = take(rest, "\n----\n");
  Response response;
  response.url = url;
  const std::string_view status = take(&text, "\n");
  std::from_chars(status.data(), status.data() + status.size(), response.status);
  while (!text.empty()) {
    std::string_view line = take(&text, "\n");
    if (line.empty()) break;
    const std::string name = lower(trim(take(&line, ":")));
    response.headers.push_back({name, std::string(trim(line))});
  }
  response.body = text;
  return response;
}

bool own_host(SourceKind kind, const std::string& url, const std::string& path) {
  const Result<Url> target = parse_url(url);
  if (!target.ok()) return true;  // it can't be asked
  switch (kind) {
    case SourceKind::kS3:
      return ("." + target->host).ends_with(".amazonaws.com") ||
             ("." + target->host).ends_with(".amazonaws.com.cn");
    case SourceKind::kGcs: return same_origin(url, "https://storage.googleapis.com");
    case SourceKind::kHub: return same_origin(url, "https://huggingface.co");
    case SourceKind::kAzure: return is_azure_account(*target, "");
    default: return same_origin(url, encode_unsafe(path));
  }
}

void check_request(SourceKind kind, const Request& request, const std::string& path) {
  const std::string shown = redact_url(request.url);
  const bool in_headers = std::any_of(
      request.headers.begin(), request.headers.end(),
      [](const Header& header) { return header.value.find(kSecret) != std::string::npos; });
  if (in_headers && !own_host(kind, request.url, path)) fail("a secret for", request.url);
  (void)redact_url(request.url, /*own=*/false);
  (void)check_plaintext(request);
}

void check_entries(const Location& directory, const ListPage& page) {
  if (directory.container.find("://") == std::string::npos) return;
  // Paths of https begin as the caller wrote the directory; the index and files stand beside it.
  std::string base = directory.path.substr(0, directory.path.find_first_of("?#"));
  if (base.ends_with(".safetensors")) return;
  if (base.ends_with(".json")) base.resize(base.rfind('/'));
  while (base.ends_with('/')) base.pop_back();
  for (const ListPage::Entry& entry : page.entries) {
    if (!entry.path.empty() && !entry.path.starts_with(base)) fail("an entry outside", entry.path);
  }
}

void read_range(Protocol& protocol, const Location& location, const Response& response) {
  std::array<char, 16> memory{};
  const iovec segment{memory.data(), memory.size()};
  RangeRead range(protocol, location, 3, {&segment, 1}, std::nullopt, {});
  BodySink* body = range.next_body();
  if (body->accept) (void)body->accept(response);
}

void list(SourceKind kind, Protocol& protocol, const std::string& path, bool recursive,
          const CredentialsRef& who, std::string_view rest) {
  const Result<Location> directory = protocol.locate(path, /*directory=*/true);
  if (!directory.ok()) {
    (void)directory.status().to_string();
    return;
  }
  std::string next;
  for (int count = 0; count < kMostPages && !rest.empty(); ++count) {
    const Result<Request> request = protocol.make_list(*directory, recursive, next, who);
    if (!request.ok()) return;
    check_request(kind, *request, path);
    Response response = take_response(&rest, request->url);
    read_range(protocol, *directory, response);
    (void)protocol.version_of(response);
    (void)protocol.checksum_of(response);
    (void)protocol.md5_of(response);
    (void)protocol.is_empty_list(response);
    (void)parse_retry_after(response.header("retry-after"));
    if (response.status < 200 || response.status > 299) {
      (void)protocol.read_error(*directory, response);
      continue;
    }
    const Result<ListPage> page = protocol.read_list(*directory, recursive, next, response);
    if (!page.ok()) return;
    check_entries(*directory, *page);
    next = page->next;
    if (next.empty()) break;
  }
  const Result<Request> read =
      protocol.make_read(*directory, ByteRange{1, 2}, {"\"1\"", "", false}, who);
  if (read.ok()) check_request(kind, *read, path);
}

}  // namespace
}  // namespace streamer::http

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace streamer;
  using namespace streamer::http;
  static const Settings settings({{"AZURE_STORAGE_ACCOUNT_NAME", "models"},
                                  {"HOME", "/nonexistent"},
                                  {"AWS_REGION", "us-east-1"}});
  static const CredentialsProvider none;
  static const auto credentials =
      std::make_shared<const Credentials>(Credentials{{{"token", std::string(kSecret)},
                                                       {"access_key_id", "AKIA"},
                                                       {"secret_access_key", "key"},
                                                       {"session_token", std::string(kSecret)}},
                                                      0,
                                                      "fuzzer"});
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::string_view line = take(&rest, "\n");
  const std::string_view name = take(&line, " ");
  const bool recursive = take(&line, " ") == "all";
  const std::string path(line);
  take(&rest, "----\n");

  using Maker = Result<std::unique_ptr<Protocol>> (*)(const ProtocolContext&);
  constexpr std::pair<std::string_view, std::pair<SourceKind, Maker>> kMakers[] = {
      {"s3", {SourceKind::kS3, &make_s3}},
      {"gs", {SourceKind::kGcs, &make_gcs}},
      {"az", {SourceKind::kAzure, &make_azure}},
      {"https", {SourceKind::kHttp, &make_web}},
      {"hf", {SourceKind::kHub, &make_hub}}};
  for (const auto& [scheme, maker] : kMakers) {
    if (name != scheme) continue;
    const auto protocol = maker.second({settings, none});
    if (!protocol.ok()) fail("no protocol", protocol.status().to_string());
    http::list(maker.first, **protocol, path, recursive, credentials, rest);
  }
  return 0;
}

#include "source/http/client/curl_transfer.h"

namespace streamer::http {
namespace {

class HeaderList {
 public:
  HeaderList() = default;
  HeaderList(const HeaderList&) = delete;
  HeaderList& operator=(const HeaderList&) = delete;
  ~HeaderList() { curl_slist_free_all(list_); }
  void add(const std::string& line) {
    if (curl_slist* longer = curl_slist_append(list_, line.c_str())) list_ = longer;
  }
  curl_slist* get() const { return list_; }

 private:
  curl_slist* list_ = nullptr;
};

std::size_t on_header(char* data, std::size_t, std::size_t size, void* attempt) {
  return static_cast<Attempt*>(attempt)->header({data, size}) ? size : 0;
}
std::size_t on_body(char* data, std::size_t, std::size_t size, void* attempt) {
  return static_cast<Attempt*>(attempt)->write(data, size) ? size : 0;
}

}  // namespace

TransferResult CurlTransfer::perform(const Request& request, const ProxyServer* proxy,
                                     Attempt* attempt, TransferTimes* times) {
  if (const Status& status = handle_.status(); !status.ok()) return {status};
  const TransportSettings& settings = attempt->transport->settings;
  HeaderList headers;
  for (const Header& header : request.headers) {
    // libcurl sends a header without a value only when it ends with a semicolon.
    headers.add(header.value.empty() ? header.name + ";" : header.name + ": " + header.value);
  }
  headers.add("Expect:");
  headers.add("Accept-Encoding: identity");
  handle_.prepare(request, proxy, settings);
  handle_.set(CURLOPT_URL, request.url.c_str());
  handle_.set(CURLOPT_HTTPHEADER, headers.get());
  if (request.method == "HEAD") {
    handle_.set(CURLOPT_NOBODY, 1L);
  } else if (request.method == "POST" || request.method == "PUT") {
    handle_.set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    handle_.set(CURLOPT_POSTFIELDS, request.body.data());
    if (request.method == "PUT") handle_.set(CURLOPT_CUSTOMREQUEST, "PUT");
  }
  const int timeout = request.timeout_ms > 0 ? request.timeout_ms : settings.request_timeout_ms;
  if (timeout > 0) handle_.set(CURLOPT_TIMEOUT_MS, static_cast<long>(timeout));
  handle_.set(CURLOPT_HEADERFUNCTION, &on_header);
  handle_.set(CURLOPT_HEADERDATA, attempt);
  handle_.set(CURLOPT_WRITEFUNCTION, &on_body);
  handle_.set(CURLOPT_WRITEDATA, attempt);
  const CURLcode result = handle_.run(attempt);
  handle_.end();

  curl_off_t first_byte = 0;
  curl_off_t connected_at = 0;
  long port = -1;
  long connects = 0;
  long os_error = 0;
  curl_easy_getinfo(handle_.easy(), CURLINFO_STARTTRANSFER_TIME_T, &first_byte);
  curl_easy_getinfo(handle_.easy(), CURLINFO_PRETRANSFER_TIME_T, &connected_at);
  curl_easy_getinfo(handle_.easy(), CURLINFO_NUM_CONNECTS, &connects);
  curl_easy_getinfo(handle_.easy(), CURLINFO_LOCAL_PORT, &port);
  curl_easy_getinfo(handle_.easy(), CURLINFO_OS_ERRNO, &os_error);
  *times = {static_cast<double>(first_byte) * 1e-6, port, connects == 0};
  if (attempt->response->status > 0) handle_.demand().responded();
  if (result == CURLE_OK) {
    if (!handle_.cut_off(request, *attempt->response)) return {};
    return {.status = Status::error(Code::kShortRead, "the connection was closed within the body"),
            .retry = true};
  }
  TransferResult outcome =
      handle_.outcome(result, proxy, connected_at != 0, static_cast<int>(os_error));
  return attempt->response->status > 0 ? outcome : handle_.demand().unanswered(std::move(outcome));
}

}  // namespace streamer::http

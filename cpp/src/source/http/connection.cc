#include "source/http/connection.h"

#include <curl/curl.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <mutex>

#include "source/http/encoding.h"
#include "source/http/retry.h"

namespace streamer::http {
namespace {

using std::chrono::milliseconds;

constexpr long kReceiveBuffer = 512 << 10;         // the most that libcurl takes
constexpr std::size_t kErrorTextLimit = 64 << 10;  // of the body of an error
constexpr std::size_t kTextLimit = 64 << 20;       // of the body of a list or a token
constexpr std::size_t kHeaderLimit = 256 << 10;
constexpr milliseconds kTick{100};  // how often a silent transfer is looked at

// libcurl's only global state; set up by the first connection of the process, never at import.
bool curl_ready() {
  static std::once_flag once;
  static bool ready = false;
  std::call_once(once, [] { ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK; });
  return ready;
}

double since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class HeaderList {
 public:
  ~HeaderList() { curl_slist_free_all(list_); }
  void add(const std::string& line) {
    if (curl_slist* longer = curl_slist_append(list_, line.c_str())) list_ = longer;
  }
  curl_slist* get() const { return list_; }

 private:
  curl_slist* list_ = nullptr;
};

}  // namespace

// What callbacks need to know about the attempt under way.
struct Attempt {
  Attempt(Transport* the_transport, Response* to, Body* into)
      : transport(the_transport), response(to), body(into) {}
  Transport* const transport;
  Response* const response;
  Body* const body;

  Status abort;              // why a callback ended the transfer
  bool ended_early = false;  // it has all that it wanted
  bool to_memory = false;
  std::size_t header_bytes = 0;
  std::size_t segment = 0;           // where the next byte goes
  std::size_t segment_position = 0;  //
  std::uint64_t to_skip = 0;
  std::uint64_t bytes = 0;   // of bodies, all that arrived
  Clock::duration paused{};  // on behalf of the bandwidth cap, since the last look

  bool begin_answer(std::string_view line) {
    response->headers.clear();
    response->body.clear();
    response->status = 0;
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return false;
    const char* digits = line.data() + space + 1;
    std::from_chars(digits, line.data() + line.size(), response->status);
    return response->status > 0;
  }

  bool end_header() {
    if (response->status < 200 || response->status > 299 || body == nullptr) return true;
    if (body->accept) {
      abort = body->accept(*response);
      if (!abort.ok()) return false;
    }
    to_memory = !body->segments.empty() || body->cut_when_full;
    to_skip = body->skip;
    return true;
  }

  bool header(std::string_view line) {
    header_bytes += line.size();
    if (header_bytes > kHeaderLimit) {
      abort = Status::error(Code::kIo, "the header of the answer is too long");
      return false;
    }
    if (line.starts_with("HTTP/")) return begin_answer(line);
    line = trim(line);
    if (line.empty()) return end_header();
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos) {
      response->headers.push_back(
          {lower(trim(line.substr(0, colon))), std::string(trim(line.substr(colon + 1)))});
    }
    return true;
  }

  // Copies to the caller's memory; false when there is more than it holds.
  bool store(const char* data, std::size_t size) {
    if (to_skip > 0) {
      const std::size_t dropped = std::min<std::uint64_t>(to_skip, size);
      to_skip -= dropped;
      data += dropped;
      size -= dropped;
    }
    while (size > 0) {
      if (segment == body->segments.size()) return false;
      const iovec& target = body->segments[segment];
      const std::size_t part = std::min(size, target.iov_len - segment_position);
      std::memcpy(static_cast<char*>(target.iov_base) + segment_position, data, part);
      body->received += part;
      segment_position += part;
      data += part;
      size -= part;
      if (segment_position == target.iov_len) {
        ++segment;
        segment_position = 0;
      }
    }
    return true;
  }

  bool full() const { return segment == body->segments.size(); }

  bool write(const char* data, std::size_t size) {
    bytes += size;
    if (to_memory) {
      const bool fits = store(data, size);
      if (body->cut_when_full && full()) {
        ended_early = true;
        return false;
      }
      if (!fits) {
        abort = Status::error(Code::kIo, "the server sent more bytes than were asked for");
        return false;
      }
    } else {
      const bool good = response->status >= 200 && response->status <= 299;
      const std::size_t limit = good ? kTextLimit : kErrorTextLimit;
      const std::size_t part = std::min(size, limit - std::min(limit, response->body.size()));
      response->body.append(data, part);
      if (good && part < size) {
        abort = Status::error(Code::kIo, "the answer is too long");
        return false;
      }
    }
    if (transport->settings.max_bandwidth > 0 && !pause(size)) return false;
    return !transport->cancel.cancelled();
  }

  bool pause(std::size_t size) {
    const auto wait = book_bandwidth(size, transport->settings.max_bandwidth);
    if (wait < milliseconds(1)) return true;
    paused += wait;
    return transport->sleep(std::chrono::ceil<milliseconds>(wait));
  }
};

struct Connection::Impl {
  CURLM* multi = nullptr;
  CURL* easy = nullptr;
  char error[CURL_ERROR_SIZE] = {};

  Impl() {
    if (!curl_ready()) return;
    multi = curl_multi_init();
    easy = curl_easy_init();
  }
  ~Impl() {
    if (easy != nullptr) curl_easy_cleanup(easy);
    if (multi != nullptr) curl_multi_cleanup(multi);
  }

  static std::size_t on_header(char* data, std::size_t, std::size_t size, void* attempt) {
    return static_cast<Attempt*>(attempt)->header({data, size}) ? size : 0;
  }
  static std::size_t on_body(char* data, std::size_t, std::size_t size, void* attempt) {
    return static_cast<Attempt*>(attempt)->write(data, size) ? size : 0;
  }

  template <typename T>
  void set(CURLoption option, T value) {
    curl_easy_setopt(easy, option, value);
  }

  void prepare(const Request& request, const TransportSettings& settings, const HeaderList& headers,
               Attempt* attempt) {
    curl_easy_reset(easy);  // options only: connections stay
    set(CURLOPT_ERRORBUFFER, error);
    error[0] = '\0';
    set(CURLOPT_URL, request.url.c_str());
    set(CURLOPT_PATH_AS_IS, 1L);
    set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_NOPROGRESS, 1L);
    set(CURLOPT_TCP_KEEPALIVE, 1L);
    set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    set(CURLOPT_HTTPHEADER, headers.get());
    set(CURLOPT_USERAGENT, settings.user_agent.c_str());
    long buffer = kReceiveBuffer;
    if (settings.max_bandwidth > 0) {  // small steps, so that the flow is even
      buffer = static_cast<long>(
          std::clamp<std::uint64_t>(settings.max_bandwidth / 16, 16 << 10, kReceiveBuffer));
    }
    set(CURLOPT_BUFFERSIZE, buffer);
    if (request.method == "HEAD") {
      set(CURLOPT_NOBODY, 1L);
    } else if (request.method == "POST" || request.method == "PUT") {
      set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
      set(CURLOPT_POSTFIELDS, request.body.data());
      if (request.method == "PUT") set(CURLOPT_CUSTOMREQUEST, "PUT");
    }
    set(CURLOPT_SSL_VERIFYPEER, 1L);
    set(CURLOPT_SSL_VERIFYHOST, 2L);
    set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    if (!settings.ca_file.empty()) set(CURLOPT_CAINFO, settings.ca_file.c_str());
    if (!settings.ca_path.empty()) set(CURLOPT_CAPATH, settings.ca_path.c_str());
    if (!request.proxy) set(CURLOPT_PROXY, "");
    set(CURLOPT_CONNECTTIMEOUT_MS,
        static_cast<long>(request.connect_timeout_ms > 0 ? request.connect_timeout_ms
                                                         : settings.connect_timeout_ms));
    const int timeout = request.timeout_ms > 0 ? request.timeout_ms : settings.request_timeout_ms;
    if (timeout > 0) set(CURLOPT_TIMEOUT_MS, static_cast<long>(timeout));
    set(CURLOPT_HEADERFUNCTION, &on_header);
    set(CURLOPT_HEADERDATA, attempt);
    set(CURLOPT_WRITEFUNCTION, &on_body);
    set(CURLOPT_WRITEDATA, attempt);
  }

  // Runs the transfer. What ends it from outside is left in `attempt->abort`.
  CURLcode run(Attempt* attempt) {
    const TransportSettings& settings = attempt->transport->settings;
    Clock::time_point window = Clock::now();
    std::uint64_t window_bytes = 0;
    CURLcode result = CURLE_FAILED_INIT;
    curl_multi_add_handle(multi, easy);
    for (;;) {
      int running = 0;
      if (curl_multi_perform(multi, &running) != CURLM_OK) break;
      int left = 0;
      while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
        if (message->msg == CURLMSG_DONE) result = message->data.result;
      }
      if (running == 0) break;
      if (Status status = attempt->transport->interrupted(); !status.ok()) {
        attempt->abort = std::move(status);
        break;
      }
      const Clock::time_point now = Clock::now();
      window += std::exchange(attempt->paused, {});
      if (settings.low_speed_seconds > 0 &&
          now - window >= std::chrono::seconds(settings.low_speed_seconds)) {
        const std::uint64_t least = static_cast<std::uint64_t>(settings.low_speed_bytes) *
                                    static_cast<std::uint64_t>(settings.low_speed_seconds);
        if (attempt->bytes - window_bytes < least) {
          result = CURLE_OPERATION_TIMEDOUT;
          std::strncpy(error, "the transfer has stalled", sizeof error - 1);
          break;
        }
        window = now;
        window_bytes = attempt->bytes;
      }
      curl_multi_poll(multi, nullptr, 0, static_cast<int>(kTick.count()), nullptr);
    }
    curl_multi_remove_handle(multi, easy);
    return result;
  }

  std::string reason(CURLcode result) const {
    return error[0] != '\0' ? error : curl_easy_strerror(result);
  }

  Outcome classify(CURLcode result) {
    long os_error = 0;
    curl_off_t connected_at = 0;
    curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_error);
    curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &connected_at);
    Outcome outcome{Status(), true, connected_at == 0};
    Code code = Code::kNetwork;
    std::string hint;
    switch (result) {
      case CURLE_PARTIAL_FILE: code = Code::kShortRead; break;
      case CURLE_OPERATION_TIMEDOUT: code = Code::kTimeout; break;
      case CURLE_PEER_FAILED_VERIFICATION:
      case CURLE_SSL_ISSUER_ERROR:
        outcome.retry = false;
        hint =
            "Name the authority's certificates in AWS_CA_BUNDLE or SSL_CERT_FILE if the server "
            "is right; its certificate must be valid now and for the host's name";
        break;
      case CURLE_SSL_CACERT_BADFILE:
        outcome.retry = false;
        hint = "No usable file of certificates; AWS_CA_BUNDLE or SSL_CERT_FILE may name one";
        break;
      case CURLE_COULDNT_RESOLVE_HOST:
      case CURLE_COULDNT_CONNECT: hint = "Check the endpoint's address"; break;
      case CURLE_COULDNT_RESOLVE_PROXY: hint = "Check HTTPS_PROXY and NO_PROXY"; break;
      case CURLE_URL_MALFORMAT:
      case CURLE_UNSUPPORTED_PROTOCOL:
        code = Code::kInvalid;
        outcome.retry = false;
        break;
      case CURLE_OUT_OF_MEMORY:
        code = Code::kOutOfMemory;
        outcome.retry = false;
        break;
      default: break;
    }
    outcome.status = Status::error(code, reason(result))
                         .with_errno(outcome.retry ? static_cast<int>(os_error) : 0)
                         .with_hint(std::move(hint));
    return outcome;
  }
};

Connection::Connection(Transport& transport)
    : transport_(transport), impl_(std::make_unique<Impl>()) {}
Connection::~Connection() = default;

Outcome Connection::perform(const Request& request, Response* response, Body* body,
                            int retry_number) {
  *response = Response();
  response->url = request.url;
  if (body != nullptr) body->received = 0;
  if (Status status = transport_.interrupted(); !status.ok()) return {std::move(status)};
  if (impl_->easy == nullptr || impl_->multi == nullptr) {
    return {Status::error(Code::kOutOfMemory, "libcurl can't be set up")};
  }
  HeaderList headers;
  for (const Header& header : request.headers) {
    // libcurl sends a header without a value only when it ends with a semicolon.
    headers.add(header.value.empty() ? header.name + ";" : header.name + ": " + header.value);
  }
  headers.add("Expect:");
  Attempt attempt(&transport_, response, body);
  impl_->prepare(request, transport_.settings, headers, &attempt);
  const Clock::time_point start = Clock::now();
  const CURLcode result = impl_->run(&attempt);

  Outcome outcome;
  if (attempt.ended_early) {
    outcome = {};
  } else if (!attempt.abort.ok()) {
    outcome.status = std::move(attempt.abort);
  } else if (Status status = transport_.interrupted(); !status.ok() && result != CURLE_OK) {
    outcome.status = std::move(status);
  } else if (result != CURLE_OK) {
    outcome = impl_->classify(result);
  }
  if (response->status > 0) transport_.reached.store(true, std::memory_order_relaxed);

  if (transport_.trace.on()) {
    curl_off_t first_byte = 0;
    long connection = -1;
    long connects = 0;
    curl_easy_getinfo(impl_->easy, CURLINFO_STARTTRANSFER_TIME_T, &first_byte);
    curl_easy_getinfo(impl_->easy, CURLINFO_NUM_CONNECTS, &connects);
    curl_easy_getinfo(impl_->easy, CURLINFO_LOCAL_PORT, &connection);
    const std::string error = outcome.status.detail().message;
    transport_.trace.write({.request = &request,
                            .response = response,
                            .error = error,
                            .bytes = attempt.bytes,
                            .milliseconds = since(start),
                            .first_byte_milliseconds = static_cast<double>(first_byte) / 1000,
                            .connection = connection,
                            .reused = connects == 0,
                            .retry = retry_number});
  }
  return outcome;
}

Result<Response> Connection::fetch(const Request& request, int attempts) {
  Backoff backoff(attempts);
  for (int retry = 0;; ++retry) {
    Response response;
    Outcome outcome = perform(request, &response, nullptr, retry);
    const bool busy = response.status == 429 || response.status >= 500;
    if (outcome.status.ok() && !busy) return response;
    if (!outcome.status.ok() && !outcome.retry) return outcome.status;
    if (!backoff.another()) {
      if (outcome.status.ok()) return response;
      return outcome.status;
    }
    if (!transport_.sleep(backoff.pause(parse_retry_after(response.header("retry-after"))))) {
      return transport_.interrupted();
    }
  }
}

}  // namespace streamer::http

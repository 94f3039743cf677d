#include "source/http/client/curl_handle.h"

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "source/http/client/proxy.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr std::size_t kTlsRead = 128 << 10;
constexpr long kReceiveBuffer = 512 << 10;  // the most that libcurl takes

// libcurl's only global state; set up by the first connection of the process, never at import.
bool curl_ready() {
  static std::mutex mutex;
  static bool ready = false;
  const std::lock_guard lock(mutex);
  // A host may call exit() while threads are in a connection.
  if (!ready) OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
  if (!ready) ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return ready;
}

// Whether libcurl speaks TLS by the OpenSSL that this library was built with.
bool tls_is_ours() {
  const curl_version_info_data* info = curl_version_info(CURLVERSION_NOW);
  const std::string ours = "OpenSSL/" + std::to_string(OPENSSL_VERSION_NUMBER >> 28) + ".";
  return info->ssl_version != nullptr && std::string_view(info->ssl_version).starts_with(ours);
}

// EMFILE or ENFILE where no descriptor is left, else 0: libcurl does not tell.
int descriptor_errno() {
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return errno == EMFILE || errno == ENFILE ? errno : 0;
  ::close(probe);
  return 0;
}

// The place of the flag of CurlHandle in an SSL_CTX.
int flag_index() {
  static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

// Called when a server asks for a client certificate: there is none.
int note_demand(SSL* ssl, X509**, EVP_PKEY**) {
  void* flag = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), flag_index());
  if (flag != nullptr) *static_cast<bool*>(flag) = true;
  return 0;
}

// What OpenSSL says of a server that responds to a handshake with something else.
bool lacks_tls(const std::string& message) {
  return message.find("wrong version number") != message.npos ||
         message.find("http request") != message.npos ||
         message.find("packet length too long") != message.npos;
}

// Of a server that wants to know who the client is, by TLS.
bool wants_certificate(const std::string& message) {
  return message.find("certificate required") != message.npos;
}

bool is_alert(const std::string& message) { return message.find(" alert ") != message.npos; }

constexpr const char* kNoClientCertificates =
    "Client certificates are not supported: use an endpoint without mutual TLS";

}  // namespace

CURLcode CurlHandle::set_up_tls(CURL*, void* context, void* handle) {
  auto* const self = static_cast<CurlHandle*>(handle);
  auto* const ssl = static_cast<SSL_CTX*>(context);
  if (self->certificates_) SSL_CTX_set1_cert_store(ssl, self->certificates_.get());
  if (self->reads_ahead_) {
    SSL_CTX_set_read_ahead(ssl, 1);
    SSL_CTX_set_default_read_buffer_len(ssl, kTlsRead);
  }
  SSL_CTX_set_ex_data(ssl, flag_index(), &self->asked_for_certificate_);
  SSL_CTX_set_client_cert_cb(ssl, &note_demand);
  return CURLE_OK;
}

std::string proxy_for(const Request& request) {
  if (!request.proxy) return {};
  const Result<Url> url = parse_url(request.url);
  return url.ok() ? proxy_of(*url) : std::string();
}

CurlHandle::CurlHandle() {
  if (!curl_ready()) {
    status_ = Status::error(Code::kPackage, "libcurl can't be initialised")
                  .with_hint("Look at the libcurl and the OpenSSL that this process loads (ldd)");
    return;
  }
  multi_.reset(curl_multi_init());
  easy_.reset(curl_easy_init());
  if (easy_ == nullptr || multi_ == nullptr) {
    status_ = Status::error(Code::kOutOfMemory, "libcurl can't be set up");
  }
}

CurlHandle::~CurlHandle() { end(); }

void CurlHandle::end() {
  if (std::exchange(added_, false)) curl_multi_remove_handle(multi_.get(), easy_.get());
}

void CurlHandle::prepare(const Request& request, const TransportSettings& settings) {
  end();
  curl_easy_reset(easy_.get());
  error_[0] = '\0';
  set(CURLOPT_ERRORBUFFER, error_);
  set(CURLOPT_PATH_AS_IS, 1L);
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_NOPROGRESS, 1L);
  set(CURLOPT_TCP_KEEPALIVE, 1L);
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(CURLOPT_USERAGENT, settings.user_agent.c_str());
  long buffer = kReceiveBuffer;
  if (settings.max_bandwidth > 0) {  // small steps, so that the flow is even
    buffer = static_cast<long>(
        std::clamp<std::uint64_t>(settings.max_bandwidth / 16, 16 << 10, kReceiveBuffer));
  }
  set(CURLOPT_BUFFERSIZE, buffer);
  set(CURLOPT_SSL_VERIFYPEER, 1L);
  set(CURLOPT_SSL_VERIFYHOST, 2L);
  set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  certificates_.reset();
  reads_ahead_ = false;
  const Result<Url> url = parse_url(request.url);
  std::string origin = url.ok() ? url->origin() : "this address";
  if (origin != origin_) asked_for_certificate_ = false;
  origin_ = std::move(origin);
  // Parsing those of the system takes 15 ms.
  proxy_ = proxy_for(request);
  if (!request.url.starts_with("http://") || !proxy_.empty()) trust(settings.trust);
  set(CURLOPT_PROXY, proxy_.c_str());
  set(CURLOPT_NOPROXY, "");
  set(CURLOPT_CONNECTTIMEOUT_MS,
      static_cast<long>(request.connect_timeout_ms > 0 ? request.connect_timeout_ms
                                                       : settings.connect_timeout_ms));
}

void CurlHandle::trust(const TrustStore& store) {
  if (tls_is_ours()) {
    certificates_ = load_certificates(store);
    set(CURLOPT_SSL_CTX_DATA, this);
    set(CURLOPT_SSL_CTX_FUNCTION, &set_up_tls);
  }
  if (certificates_) {
    curl_easy_setopt(easy_.get(), CURLOPT_CAINFO, nullptr);
    curl_easy_setopt(easy_.get(), CURLOPT_CAPATH, nullptr);
    return;
  }
  if (!store.file.empty()) set(CURLOPT_CAINFO, store.file.c_str());
  if (!store.directory.empty()) set(CURLOPT_CAPATH, store.directory.c_str());
}

void CurlHandle::read_ahead() { reads_ahead_ = true; }

void CurlHandle::resolve(const Url& url, const std::vector<std::string>& addresses) {
  if (addresses.empty()) return;
  const int port = url.port != 0 ? url.port : url.scheme == "https" ? 443 : 80;
  std::string entry = url.host + ":" + std::to_string(port) + ":";
  for (const std::string& address : addresses) {
    if (entry.back() != ':') entry += ',';
    const bool v6 = address.find(':') != std::string::npos;
    entry += v6 ? "[" + address + "]" : address;
  }
  addresses_.reset(curl_slist_append(nullptr, entry.c_str()));
  set(CURLOPT_RESOLVE, addresses_.get());
}

CURLcode CurlHandle::run(Attempt* attempt) {
  StallWatch watch(attempt->transport->settings);
  CURLcode result = CURLE_FAILED_INIT;
  added_ = curl_multi_add_handle(multi_.get(), easy_.get()) == CURLM_OK;
  for (;;) {
    int running = 0;
    if (curl_multi_perform(multi_.get(), &running) != CURLM_OK) break;
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
      if (message->msg == CURLMSG_DONE) result = message->data.result;
    }
    if (running == 0) break;
    if (Status status = attempt->transport->interrupted(); !status.ok()) {
      attempt->abort = std::move(status);
      break;
    }
    if (attempt->aborted()) {
      result = CURLE_ABORTED_BY_CALLBACK;
      std::strncpy(error_, kStragglerMessage, sizeof error_ - 1);
      break;
    }
    curl_off_t connected = 0;  // the connection's own timeout holds until then
    curl_easy_getinfo(easy_.get(), CURLINFO_PRETRANSFER_TIME_T, &connected);
    if (connected == 0) watch.restart();
    if (watch.stalled(attempt)) {
      result = CURLE_OPERATION_TIMEDOUT;
      std::strncpy(error_, "the transfer has stalled", sizeof error_ - 1);
      break;
    }
    curl_multi_poll(multi_.get(), nullptr, 0, static_cast<int>(kTick.count()), nullptr);
  }
  return result;
}

TransferResult CurlHandle::outcome(CURLcode result, bool connected, int os_error) const {
  TransferResult outcome{.status = Status(), .retry = true, .unreachable = !connected};
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
    case CURLE_COULDNT_CONNECT:
      hint = "Check the endpoint's address";
      outcome.unresolved = result == CURLE_COULDNT_RESOLVE_HOST;
      outcome.refused = result == CURLE_COULDNT_CONNECT && os_error == ECONNREFUSED;
      if (const int none = descriptor_errno(); none != 0) {
        code = Code::kIo;
        os_error = none;
        hint = "Raise the limit of open files (ulimit -n)";
      }
      break;
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
  std::string message = error_[0] != '\0' ? error_ : curl_easy_strerror(result);
  if (!connected && lacks_tls(message)) {
    message = "the server at " + origin_ + " does not speak TLS";
    hint = "Use http:// in the endpoint if the server is a plain one";
    outcome.retry = false;
  } else if (wants_certificate(message) ||
             (!connected && asked_for_certificate_ && is_alert(message))) {
    message = "the server at " + origin_ + " demands a client certificate";
    hint = kNoClientCertificates;
    outcome.retry = false;
  } else if (result == CURLE_UNSUPPORTED_PROTOCOL && message.find("HTTP/0.9") != message.npos) {
    code = Code::kNetwork;
    message = "the server's response is not HTTP";
    hint = "If the server at " + origin_ + " speaks TLS, use https:// in the endpoint";
  }
  if (!proxy_.empty() && !connected) {
    message = "no connection by the proxy " + shown_proxy(proxy_) + ": " + message;
  }
  if (message.find("proxy") != std::string::npos) {
    hint = "Check HTTPS_PROXY, http_proxy and NO_PROXY";
  }
  long tunnel = 0;  // what a proxy responded to CONNECT
  curl_easy_getinfo(easy_.get(), CURLINFO_HTTP_CONNECTCODE, &tunnel);
  if (tunnel >= 300) hint = "The proxy of HTTPS_PROXY refuses; NO_PROXY names hosts without one";
  // Addresses are quoted with the user and the password that they hold.
  if (message.find('@') != std::string::npos) message = curl_easy_strerror(result);
  outcome.status = Status::error(code, std::move(message))
                       .with_errno(outcome.retry ? os_error : 0)
                       .with_hint(std::move(hint));
  return outcome;
}

TransferResult CurlHandle::unanswered(TransferResult outcome) const {
  if (!asked_for_certificate_ || !outcome.retry || outcome.status.code() != Code::kNetwork) {
    return outcome;
  }
  const ErrorDetail& detail = outcome.status.detail();
  // An alert is the server's decision; anything else may pass.
  outcome.retry = !is_alert(detail.message);
  outcome.status =
      Status::error(Code::kNetwork, "the server at " + origin_ +
                                        " asked for a client certificate, and ended the "
                                        "connection: " +
                                        detail.message)
          .with_errno(outcome.retry ? detail.os_error : 0)
          .with_hint(kNoClientCertificates);
  return outcome;
}

}  // namespace streamer::http

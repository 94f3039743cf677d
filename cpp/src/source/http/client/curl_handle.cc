#include "source/http/client/curl_handle.h"

#include <openssl/ssl.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "base/fork_lock.h"
#include "base/system.h"
#include "source/http/client/proxy.h"
#include "source/http/client/tls_session.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr long kReceiveBuffer = 512 << 10;  // the most that libcurl takes

// libcurl's only global state; set up by the first connection of the process, never at import.
bool curl_ready() {
  static auto* const mutex = new ForkLock;  // for threads that outlive static objects
  static bool ready = false;
  const std::lock_guard lock(*mutex);
  if (!ready) set_up_openssl();
  if (!ready) ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return ready;
}

// True if libcurl speaks TLS by the OpenSSL that this library was built with.
bool tls_is_ours() {
  const curl_version_info_data* info = curl_version_info(CURLVERSION_NOW);
  const std::string ours = "OpenSSL/" + std::to_string(OPENSSL_VERSION_NUMBER >> 28) + ".";
  return info->ssl_version != nullptr && std::string_view(info->ssl_version).starts_with(ours);
}

}  // namespace

CURLcode CurlHandle::set_up_tls(CURL*, void* context, void* handle) {
  auto* const self = static_cast<CurlHandle*>(handle);
  auto* const ssl = static_cast<SSL_CTX*>(context);
  if (self->certificates_) SSL_CTX_set1_cert_store(ssl, self->certificates_.get());
  CertificateDemand::decline(ssl);
  self->demand_.watch(ssl);
  return CURLE_OK;
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

void CurlHandle::prepare(const Request& request, const ProxyServer* proxy,
                         const TransportSettings& settings) {
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
  const Result<Url> url = parse_url(request.url);
  demand_.expect(url.ok() ? url->origin() : "this address");
  // Parsing those of the system takes 15 ms.
  if (!request.url.starts_with("http://") || proxy != nullptr) trust(settings.trust);
  set(CURLOPT_PROXY, proxy != nullptr ? proxy->text.c_str() : "");
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

// libcurl takes the end of the connection for that of the body, without regard to TLS.
bool CurlHandle::cut_off(const Request& request, const Response& response) const {
  const bool ended_by_connection = response.header("content-length").empty() &&
                                   response.header("transfer-encoding").empty() &&
                                   response.status >= 200 && response.status < 300 &&
                                   response.status != 204 && request.method != "HEAD";
  return ended_by_connection && request.url.starts_with("https://") && certificates_ &&
         !demand_.ended();
}

TransferResult CurlHandle::outcome(CURLcode result, const ProxyServer* proxy, bool connected,
                                   int os_error) const {
  if (!connected && demand_.refused() != X509_V_OK) return certificate_refused(demand_.refused());
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
      outcome.refused = result == CURLE_COULDNT_CONNECT && os_error == ECONNREFUSED;
      if (const int none = exhausted_descriptors(); none != 0) {
        code = Code::kIo;
        os_error = none;
        hint = kRaiseDescriptorLimit;
      }
      break;
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
  if (demand_.explain(connected, &message, &hint)) {
    outcome.retry = false;
  } else if (result == CURLE_UNSUPPORTED_PROTOCOL && message.find("HTTP/0.9") != message.npos) {
    code = Code::kNetwork;
    message = "the server's response is not HTTP";
    hint = "If the server at " + demand_.origin() + " speaks TLS, use https:// in the endpoint";
  }
  // Addresses are quoted with the user and the password that they hold.
  if (message.find('@') != std::string::npos) message = curl_easy_strerror(result);
  if (proxy != nullptr && !connected) {
    message = "no connection by the proxy " + proxy->shown() + ": " + message;
    hint = proxy->to_check();
    long tunnel = 0;  // status of the response to CONNECT
    long socks = CURLPX_OK;
    curl_easy_getinfo(easy_.get(), CURLINFO_HTTP_CONNECTCODE, &tunnel);
    curl_easy_getinfo(easy_.get(), CURLINFO_PROXY_ERROR, &socks);
    outcome.login_refused =
        tunnel == 407 || socks == CURLPX_USER_REJECTED || socks == CURLPX_NO_AUTH;
    if (outcome.login_refused) {
      outcome.retry = false;
      hint = "Check the user and the password in " + proxy->variable;
    }
  }
  outcome.status = Status::error(code, std::move(message))
                       .with_errno(outcome.retry ? os_error : 0)
                       .with_hint(std::move(hint));
  return outcome;
}

}  // namespace streamer::http

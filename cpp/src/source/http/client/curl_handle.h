// The common part of all uses of libcurl.
#pragma once

#include <curl/curl.h>

#include <memory>
#include <string>

#include "source/http/client/attempt.h"
#include "source/http/client/connection.h"
#include "source/http/client/request.h"
#include "source/http/client/tls_session.h"
#include "text/url.h"

namespace streamer::http {

struct EasyCleanup {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct MultiCleanup {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};

// An easy handle and the multi handle that it is driven by.
class CurlHandle {
 public:
  CurlHandle();
  ~CurlHandle();
  CurlHandle(const CurlHandle&) = delete;
  CurlHandle& operator=(const CurlHandle&) = delete;

  const Status& status() const { return status_; }
  CURL* easy() const { return easy_.get(); }
  template <typename T>
  void set(CURLoption option, T value) {
    curl_easy_setopt(easy_.get(), option, value);
  }

  // Forgets all options, and sets those of the connection for `request`.
  void prepare(const Request& request, const ProxyServer* proxy, const TransportSettings& settings);
  // Runs the transfer to its end. The reason of an end from outside is left in `attempt->abort`.
  CURLcode run(Attempt* attempt);
  // Ends it at once: a transfer that is in flight loses its connection; that of another is kept for
  // the next.
  void end();
  // The error that `result` stands for.
  TransferResult outcome(CURLcode result, const ProxyServer* proxy, bool connected,
                         int os_error) const;
  // True if a transfer that ended well lacks a part of its body.
  bool cut_off(const Request& request, const Response& response) const;
  CertificateDemand& demand() { return demand_; }

 private:
  static CURLcode set_up_tls(CURL* easy, void* context, void* handle);
  void trust(const TrustStore& store);

  std::shared_ptr<X509_STORE> certificates_;  // null: libcurl loads them
  Status status_;
  // The easy handle goes first: it may have a connection that the multi handle owns.
  std::unique_ptr<CURLM, MultiCleanup> multi_;
  std::unique_ptr<CURL, EasyCleanup> easy_;
  bool added_ = false;
  CertificateDemand demand_;
  char error_[CURL_ERROR_SIZE] = {};
};

}  // namespace streamer::http

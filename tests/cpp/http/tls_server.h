// A TLS server in a thread, with certificates of its own authority.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace streamer::testing {

using Key = std::shared_ptr<EVP_PKEY>;
using Certificate = std::shared_ptr<X509>;

// Whose certificate it is, and how it is wrong.
struct Wanted {
  std::string names;    // subjectAltName, as in "DNS:localhost,IP:127.0.0.1"
  long from = -86'400;  // seconds from now
  long until = 86'400;
  bool authority = false;
};

struct Identity {
  Certificate certificate;
  Key key;
  std::vector<Certificate> chain;  // sent along

  static Identity make(const std::string& name, const Wanted& wanted, const Identity* issuer) {
    Identity made;
    made.key = Key(EVP_EC_gen("P-256"), EVP_PKEY_free);
    made.certificate = Certificate(X509_new(), X509_free);
    X509* const x = made.certificate.get();
    static std::atomic<long> serial{1};
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
    X509_gmtime_adj(X509_getm_notBefore(x), wanted.from);
    X509_gmtime_adj(X509_getm_notAfter(x), wanted.until);
    X509_set_pubkey(x, made.key.get());
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509* const by = issuer != nullptr ? issuer->certificate.get() : x;
    X509_set_issuer_name(x, X509_get_subject_name(by));
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, by, x, nullptr, nullptr, 0);
    const auto add = [&](int kind, const std::string& value) {
      X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
      if (extension == nullptr) std::abort();
      X509_add_ext(x, extension, -1);
      X509_EXTENSION_free(extension);
    };
    add(NID_basic_constraints, wanted.authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (!wanted.names.empty()) add(NID_subject_alt_name, wanted.names);
    EVP_PKEY* const signer = issuer != nullptr ? issuer->key.get() : made.key.get();
    if (X509_sign(x, signer, EVP_sha256()) == 0) std::abort();
    return made;
  }
  std::string pem() const {
    BIO* const memory = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(memory, certificate.get());
    char* data = nullptr;
    const long size = BIO_get_mem_data(memory, &data);
    std::string text(data, static_cast<std::size_t>(size));
    BIO_free(memory);
    return text;
  }
};

inline bool reads_request(SSL* ssl) {
  std::string text;
  char part[4096];
  while (text.find("\r\n\r\n") == text.npos) {
    const int size = SSL_read(ssl, part, sizeof part);
    if (size <= 0) return false;
    text.append(part, static_cast<std::size_t>(size));
  }
  return true;
}
inline bool sends(SSL* ssl, const std::string& text) {
  return SSL_write(ssl, text.data(), static_cast<int>(text.size())) > 0;
}

// Serves one connection after another.
class TlsServer {
 public:
  using Script = std::function<void(SSL*)>;
  using Configure = std::function<void(SSL_CTX*)>;

  static void greet(SSL* ssl) {
    while (reads_request(ssl) && sends(ssl, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) {
    }
  }

  explicit TlsServer(
      const Identity& identity, Script script = &greet,
      const Configure& configure = [](SSL_CTX*) {}, int port = 0, bool v6 = false)
      : script_(std::move(script)), context_(SSL_CTX_new(TLS_server_method())) {
    SSL_CTX_use_certificate(context_, identity.certificate.get());
    SSL_CTX_use_PrivateKey(context_, identity.key.get());
    for (const Certificate& one : identity.chain) SSL_CTX_add1_chain_cert(context_, one.get());
    SSL_CTX_set_session_id_context(context_, reinterpret_cast<const unsigned char*>("test"), 4);
    configure(context_);
    listener_ = ::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in6 own6{};
    own6.sin6_family = AF_INET6;
    own6.sin6_addr = in6addr_loopback;
    own6.sin6_port = htons(static_cast<std::uint16_t>(port));
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    own.sin_port = own6.sin6_port;
    ready_ =
        bind(listener_, v6 ? reinterpret_cast<sockaddr*>(&own6) : reinterpret_cast<sockaddr*>(&own),
             v6 ? sizeof own6 : sizeof own) == 0 &&
        listen(listener_, 16) == 0;
    socklen_t size = sizeof own6;  // the port is at the same place
    getsockname(listener_, reinterpret_cast<sockaddr*>(&own6), &size);
    port_ = ntohs(own6.sin6_port);
    thread_ = std::thread([this] { run(); });
  }
  ~TlsServer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
    SSL_CTX_free(context_);
  }
  TlsServer(const TlsServer&) = delete;
  TlsServer& operator=(const TlsServer&) = delete;

  bool ready() const { return ready_; }
  int port() const { return port_; }
  int accepted() const { return accepted_; }      // connections
  int handshakes() const { return handshakes_; }  // that have ended well
  int resumed() const { return resumed_; }        // of these
  int named() const { return named_; }            // of these, with the name of the server

 private:
  void run() {
    sigset_t pipe;  // OpenSSL's own sockets raise it
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    for (;;) {
      const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (socket < 0) return;
      ++accepted_;
      SSL* const ssl = SSL_new(context_);
      SSL_set_fd(ssl, socket);
      if (SSL_accept(ssl) == 1) {
        ++handshakes_;
        if (SSL_session_reused(ssl) == 1) ++resumed_;
        if (SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) != nullptr) ++named_;
        script_(ssl);
        SSL_shutdown(ssl);
      }
      ERR_clear_error();
      SSL_free(ssl);
      ::close(socket);
    }
  }

  const Script script_;
  SSL_CTX* const context_;
  int listener_ = -1;
  int port_ = 0;
  bool ready_ = false;
  std::atomic<int> accepted_{0}, handshakes_{0}, resumed_{0}, named_{0};
  std::thread thread_;
};

}  // namespace streamer::testing

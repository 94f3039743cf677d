#include "source/http/client/tls_session.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <mutex>
#include <utility>
#include <vector>

#include "base/fork_lock.h"
#include "base/system.h"

namespace streamer::http {
namespace {

constexpr std::size_t kReadAhead = 128 << 10;
// Bytes that one call receives at most: a server may send messages of TLS itself without end, while
// another thread wants to close the stream.
constexpr std::size_t kMostAtOnce = 1 << 20;
constexpr unsigned char kProtocols[] = "\x08http/1.1";

constexpr const char* kNoClientCertificates =
    "Client certificates are not supported: use an endpoint without mutual TLS";
constexpr const char* kTrust =
    "Name the authority's certificates in AWS_CA_BUNDLE or SSL_CERT_FILE if the server is right; "
    "its certificate must be valid now and for the host's name";

// Of a server that responds to a handshake with something else.
bool lacks_tls(const std::string& message) {
  return message.find("wrong version number") != message.npos ||
         message.find("http request") != message.npos ||
         message.find("packet length too long") != message.npos;
}

// Of a server that wants the identity of the client, by TLS.
bool wants_certificate(const std::string& message) {
  return message.find("certificate required") != message.npos;
}

// Of a server and a client that know no common version.
bool lacks_version(const std::string& message) {
  return message.find("unsupported protocol") != message.npos ||
         message.find("alert protocol version") != message.npos;
}

bool is_alert(const std::string& message) { return message.find(" alert ") != message.npos; }

// The place of the CertificateDemand in an SSL, and in an SSL_CTX.
int session_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}
int context_index() {
  static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

// OpenSSL's own sockets raise SIGPIPE.
TlsSession::Wire& wire_of(BIO* bio) { return *static_cast<TlsSession::Wire*>(BIO_get_data(bio)); }

// The result of a call of the session below for the one above: -1 if it has moved nothing.
int moved_below(BIO* bio, Io io, std::size_t moved) {
  if (io == Io::kDone) return static_cast<int>(moved);
  if (io == Io::kWaitsToRead) BIO_set_retry_read(bio);
  if (io == Io::kWaitsToWrite) BIO_set_retry_write(bio);
  if (io == Io::kFailed && errno == 0) errno = EPROTO;
  return -1;
}

int write_socket(BIO* bio, const char* data, int size) {
  BIO_clear_retry_flags(bio);
  if (TlsSession* const below = wire_of(bio).below) {
    std::size_t moved = 0;
    const Io io = below->send(data, static_cast<std::size_t>(size), &moved);
    return moved_below(bio, io, moved);
  }
  const ssize_t sent =
      ::send(wire_of(bio).socket, data, static_cast<std::size_t>(size), MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return static_cast<int>(sent);
}

int read_socket(BIO* bio, char* data, int size) {
  BIO_clear_retry_flags(bio);
  TlsSession::Wire& wire = wire_of(bio);
  if (wire.allowance == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  ssize_t received = 0;
  if (wire.below != nullptr) {
    std::size_t moved = 0;
    const Io io = wire.below->receive(data, static_cast<std::size_t>(size), &moved);
    received = moved_below(bio, io, moved);
  } else {
    received = ::recv(wire.socket, data, static_cast<std::size_t>(size), 0);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
  }
  if (received > 0) wire.allowance -= std::min(wire.allowance, static_cast<std::size_t>(received));
  return static_cast<int>(received);
}

long control_socket(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

// Null: no memory.
const BIO_METHOD* socket_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
    if (made == nullptr) return made;
    BIO_meth_set_write(made, &write_socket);
    BIO_meth_set_read(made, &read_socket);
    BIO_meth_set_ctrl(made, &control_socket);
    BIO_meth_set_create(made, [](BIO* bio) {
      BIO_set_init(bio, 1);
      return 1;
    });
    return made;
  }();
  return method;
}

// Null: no memory, or no certificates although `trust` names them.
std::shared_ptr<SSL_CTX> make_context(const TrustStore& trust,
                                      const std::shared_ptr<X509_STORE>& certificates) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  if (!context) return nullptr;
  if (certificates) {
    SSL_CTX_set1_cert_store(context.get(), certificates.get());
  } else if (!trust.file.empty() || !trust.directory.empty() ||
             SSL_CTX_set_default_verify_paths(context.get()) != 1) {
    return nullptr;
  }
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_default_read_buffer_len(context.get(), kReadAhead);
  CertificateDemand::decline(context.get());
  const bool ready = SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) == 1 &&
                     SSL_CTX_set_alpn_protos(context.get(), kProtocols, sizeof kProtocols - 1) == 0;
  return ready ? context : nullptr;
}

// One for all sessions that trust the same certificates: making one takes a millisecond.
std::shared_ptr<SSL_CTX> context_for(const TrustStore& trust) {
  struct Made {
    ForkLock lock;
    std::shared_ptr<X509_STORE> certificates;
    std::shared_ptr<SSL_CTX> context;
  };
  static auto* const last = new Made;  // for threads that outlive static objects
  std::shared_ptr<X509_STORE> certificates = load_certificates(trust);
  if (!certificates) return make_context(trust, nullptr);
  const std::lock_guard lock(last->lock);
  if (!last->context || last->certificates != certificates) {
    last->context = make_context(trust, certificates);
    last->certificates = std::move(certificates);
  }
  return last->context;
}

// Asks for a certificate of the URL's host, without the parts that only URLs and resolvers need.
bool expect_host(SSL* ssl, const Url& url) {
  std::string host = url.host;
  if (host.ends_with('.')) host.pop_back();
  in_addr number{};
  if (host.starts_with('[')) {
    host = host.substr(1, host.find_first_of("%]") - 1);
    return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  }
  if (url.host_is_ip() && inet_aton(host.c_str(), &number) == 1) {  // 127.1 is one, too
    const auto* const bytes = reinterpret_cast<const unsigned char*>(&number);
    return X509_VERIFY_PARAM_set1_ip(SSL_get0_param(ssl), bytes, sizeof number) == 1;
  }
  SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return !host.empty() && SSL_set1_host(ssl, host.c_str()) == 1 &&
         SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
}

TransferResult no_descriptor(int error) {
  return {.status = Status::error(Code::kIo, "the certificates of authorities can't be read")
                        .with_errno(error)
                        .with_hint(kRaiseDescriptorLimit),
          .retry = true,
          .unreachable = true};
}

TransferResult no_certificates(const TrustStore& trust) {
  int error = ENOMEM;  // unless the files tell another reason
  std::vector<std::string> places = directories_of(trust);
  if (!trust.file.empty()) places.insert(places.begin(), trust.file);
  for (const std::string& place : places) {
    error = 0;  // it has none
    const int file = ::open(place.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) {
      error = errno;
      break;
    }
    ::close(file);
  }
  if (error == EMFILE || error == ENFILE) return no_descriptor(error);
  const Code code = error == ENOMEM ? Code::kOutOfMemory : Code::kNetwork;
  return {.status = Status::error(code, "the certificates of authorities can't be read")
                        .with_errno(error)
                        .with_hint("No usable file of certificates; AWS_CA_BUNDLE or "
                                   "SSL_CERT_FILE may name one"),
          .unreachable = true};
}

std::string openssl_error() {
  const unsigned long code = ERR_peek_last_error();
  char text[256];
  ERR_error_string_n(code, text, sizeof text);
  return text;
}

}  // namespace

void set_up_openssl() {
  // A host may call exit() while threads are in a connection.
  static const int done = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
  static_cast<void>(done);
}

TransferResult certificate_refused(long reason) {
  // Those of a directory are read when they are needed.
  if (const int none = exhausted_descriptors(); none != 0) return no_descriptor(none);
  return {.status = Status::error(Code::kNetwork,
                                  std::string("the server's certificate is not accepted: ") +
                                      X509_verify_cert_error_string(reason))
                        .with_hint(kTrust),
          .unreachable = true};
}

int CertificateDemand::note(SSL* session, X509**, EVP_PKEY**) {
  void* demand = SSL_get_ex_data(session, session_index());
  if (demand == nullptr) demand = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(session), context_index());
  if (demand != nullptr) static_cast<CertificateDemand*>(demand)->asked_ = true;
  return 0;
}

int CertificateDemand::note_refusal(int accepted, X509_STORE_CTX* verified) {
  if (accepted == 1) return 1;
  const int index = SSL_get_ex_data_X509_STORE_CTX_idx();
  const auto* const session = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(verified, index));
  void* const demand = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(session), context_index());
  if (demand != nullptr) {
    static_cast<CertificateDemand*>(demand)->refused_ = X509_STORE_CTX_get_error(verified);
  }
  return 0;
}

void CertificateDemand::note_end(const SSL* session, int event, int alert) {
  if ((event & SSL_CB_READ_ALERT) != SSL_CB_READ_ALERT || (alert & 0xFF) != SSL_AD_CLOSE_NOTIFY) {
    return;
  }
  void* const demand = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(session), context_index());
  if (demand != nullptr) static_cast<CertificateDemand*>(demand)->ended_ = true;
}

void CertificateDemand::expect(std::string origin) {
  refused_ = X509_V_OK;
  ended_ = false;
  if (origin != origin_) asked_ = false;
  origin_ = std::move(origin);
}

void CertificateDemand::decline(SSL_CTX* context) { SSL_CTX_set_client_cert_cb(context, &note); }

void CertificateDemand::watch(SSL* session) { SSL_set_ex_data(session, session_index(), this); }

void CertificateDemand::watch(SSL_CTX* context) {
  SSL_CTX_set_ex_data(context, context_index(), this);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, &note_refusal);
  SSL_CTX_set_info_callback(context, &note_end);
}

bool CertificateDemand::explain(bool connected, std::string* message, std::string* hint) const {
  if (!connected && lacks_tls(*message)) {
    *message = "the server at " + origin_ + " does not speak TLS";
    *hint = "Use http:// in the endpoint if the server is a plain one";
    return true;
  }
  if (!connected && lacks_version(*message)) {
    *message = "the server at " + origin_ + " speaks neither TLS 1.2 nor TLS 1.3";
    *hint = "Enable TLS 1.2 or later on the server";
    return true;
  }
  if (wants_certificate(*message) || (!connected && asked_ && is_alert(*message))) {
    *message = "the server at " + origin_ + " demands a client certificate";
    *hint = kNoClientCertificates;
    return true;
  }
  return false;
}

TransferResult CertificateDemand::unanswered(TransferResult outcome) const {
  if (!asked_ || !outcome.retry || outcome.status.code() != Code::kNetwork) return outcome;
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

TransferResult TlsSession::begin(int socket, const Url& url, const TrustStore& trust,
                                 CertificateDemand* demand, TlsSession* below) {
  end();
  error_.clear();
  std::shared_ptr<SSL_CTX> context = context_for(trust);
  if (!context) return no_certificates(trust);
  if (context != context_) resumable_.reset();  // its certificates have changed
  context_ = std::move(context);
  ssl_.reset(SSL_new(context_.get()));
  BIO* const bio = socket_method() == nullptr ? nullptr : BIO_new(socket_method());
  if (!ssl_ || bio == nullptr) {
    BIO_free(bio);
    ssl_.reset();
    return {.status = Status::error(Code::kOutOfMemory, "TLS can't be set up")};
  }
  wire_.socket = socket;
  wire_.below = below;
  BIO_set_data(bio, &wire_);
  SSL_set_bio(ssl_.get(), bio, bio);
  demand->watch(ssl_.get());
  if (resumable_) SSL_set_session(ssl_.get(), resumable_.get());
  if (!expect_host(ssl_.get(), url)) {
    ssl_.reset();
    return {.status = Status::error(Code::kOutOfMemory, "TLS can't be set up")};
  }
  SSL_set_connect_state(ssl_.get());
  return {};
}

Io TlsSession::after(int result) {
  const int os_error = errno;
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ: return Io::kWaitsToRead;
    case SSL_ERROR_WANT_WRITE: return Io::kWaitsToWrite;
    case SSL_ERROR_ZERO_RETURN: return Io::kDone;
    case SSL_ERROR_SYSCALL:
      error_ = os_error == 0 ? "the server closed the connection" : "the connection was lost";
      errno = os_error;
      return os_error == 0 ? Io::kDone : Io::kFailed;
    default:
      error_ = openssl_error();
      errno = 0;
      return Io::kFailed;
  }
}

void TlsSession::prepare() {
  ERR_clear_error();
  errno = 0;
  wire_.allowance = kMostAtOnce;
}

Io TlsSession::handshake() {
  prepare();
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) return Io::kDone;
  const Io io = after(result);
  return io == Io::kDone ? Io::kFailed : io;
}

TransferResult TlsSession::refusal() const {
  const int os_error = errno;
  const long verified = SSL_get_verify_result(ssl_.get());
  if (verified != X509_V_OK) return certificate_refused(verified);
  return {.status = Status::error(Code::kNetwork, "TLS: " + error_).with_errno(os_error),
          .retry = true,
          .unreachable = true};
}

Io TlsSession::send(const char* data, std::size_t size, std::size_t* moved) {
  prepare();
  const int sent =
      SSL_write(ssl_.get(), data, static_cast<int>(std::min<std::size_t>(size, INT_MAX)));
  *moved = static_cast<std::size_t>(std::max(sent, 0));
  if (sent > 0) return Io::kDone;
  const Io io = after(sent);
  return io == Io::kDone ? Io::kFailed : io;
}

Io TlsSession::receive(char* data, std::size_t size, std::size_t* moved) {
  prepare();
  const int received =
      SSL_read(ssl_.get(), data, static_cast<int>(std::min<std::size_t>(size, INT_MAX)));
  *moved = static_cast<std::size_t>(std::max(received, 0));
  return received > 0 ? Io::kDone : after(received);
}

void TlsSession::end() {
  if (!ssl_) return;
  if (SSL_is_init_finished(ssl_.get())) {
    std::unique_ptr<SSL_SESSION, Free> session(SSL_get1_session(ssl_.get()));
    if (session && SSL_SESSION_is_resumable(session.get())) resumable_ = std::move(session);
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
  }
  ERR_clear_error();
  ssl_.reset();
}

}  // namespace streamer::http

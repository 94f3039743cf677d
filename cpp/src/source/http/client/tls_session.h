// TLS over a connected socket, or over TLS: the handshake, the identity of the server, bytes in
// both directions.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <memory>
#include <string>

#include "source/http/client/connection.h"
#include "source/http/client/tls.h"
#include "text/url.h"

namespace streamer::http {

// The progress of a call on a non-blocking socket.
enum class Io {
  kDone,
  kWaitsToRead,   // until the socket can be read
  kWaitsToWrite,  // until it can be written
  kFailed,
};

// OpenSSL for this process: it leaves nothing to the end of the process.
void set_up_openssl();

// Of a server whose certificate is not accepted: `reason` is one of OpenSSL's X509_V_ERR_*.
TransferResult certificate_refused(long reason);

// The server that is connected to, and its demand for a client certificate. Sessions go on without
// one.
class CertificateDemand {
 public:
  // Connections go to the server at `origin` from now on.
  void expect(std::string origin);
  const std::string& origin() const { return origin_; }

  // Lets sessions of `context` go on without a certificate.
  static void decline(SSL_CTX* context);
  // Notes a demand of the server, in one session of such a context or in all of them. This object
  // outlives them.
  void watch(SSL* session);
  void watch(SSL_CTX* context);

  // A response has begun: the server goes on without a certificate, even if it had asked.
  void responded() { asked_ = false; }
  // `outcome` of a request that no response came to. A server that has asked may have ended the
  // connection before its reason arrived: the error then says that it had asked.
  TransferResult unanswered(TransferResult outcome) const;
  // The meaning of an error of TLS to the caller. False: it is not known here.
  bool explain(bool connected, std::string* message, std::string* hint) const;
  // The reason if a session of a watched context refused the server's own certificate; else
  // X509_V_OK.
  long refused() const { return refused_; }
  // The server has said that nothing more comes, to a session of a watched context.
  bool ended() const { return ended_; }

 private:
  static int note(SSL* session, X509**, EVP_PKEY**);
  static int note_refusal(int accepted, X509_STORE_CTX* verified);
  static void note_end(const SSL* session, int event, int alert);

  std::string origin_;
  bool asked_ = false;  // since the last response
  long refused_ = X509_V_OK;
  bool ended_ = false;
};

// Owned by one thread. The socket is the caller's, is non-blocking, and outlives it.
class TlsSession {
 public:
  // The end that OpenSSL reads from and writes to.
  struct Wire {
    int socket = -1;
    TlsSession* below = nullptr;  // in the place of the socket: the session with a proxy
    std::size_t allowance = 0;    // bytes that this call may still receive
  };

  TlsSession() = default;
  ~TlsSession() { end(); }
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  // Begins a session with the server of `url`, which must have a certificate of `trust` for its
  // host. A session with the same server before this one may be resumed.
  // `below`, which outlives this one, is a session whose bytes are those of this one; null: none.
  TransferResult begin(int socket, const Url& url, const TrustStore& trust,
                       CertificateDemand* demand, TlsSession* below = nullptr);
  // To be called until it is done.
  Io handshake();
  // The reason of a failed handshake.
  TransferResult refusal() const;
  Io send(const char* data, std::size_t size, std::size_t* moved);
  // Done with 0 bytes: the server has ended the connection.
  Io receive(char* data, std::size_t size, std::size_t* moved);
  bool active() const { return ssl_ != nullptr; }
  // The server has said that nothing more comes.
  bool ended_by_peer() const {
    return ssl_ != nullptr && (SSL_get_shutdown(ssl_.get()) & SSL_RECEIVED_SHUTDOWN) != 0;
  }
  const std::string& error() const { return error_; }
  // The last call received as much as one call may: more may be there already.
  bool stopped_early() const { return ssl_ != nullptr && wire_.allowance == 0; }
  void end();

 private:
  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
    void operator()(SSL_SESSION* session) const { SSL_SESSION_free(session); }
  };
  void prepare();
  Io after(int result);

  Wire wire_;
  std::shared_ptr<SSL_CTX> context_;
  std::unique_ptr<SSL_SESSION, Free> resumable_;
  std::unique_ptr<SSL, Free> ssl_;
  std::string error_;
};

}  // namespace streamer::http

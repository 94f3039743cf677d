// Both ways to a server over TLS, against servers that are wrong in one way.
#include "source/http/client/tls_session.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>

#include "base/cancel.h"
#include "http/tls_server.h"
#include "source/http/client/connection.h"
#include "source/http/client/server_socket.h"
#include "source/temporary.h"

namespace streamer::http {
namespace {

using testing::Identity;
using testing::reads_request;
using testing::sends;
using testing::TlsServer;
using testing::Wanted;

constexpr const char* kHead = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

// How a request is sent: by a connection of this library, or by libcurl.
enum class Way { kDirect, kCurl };
constexpr Way kWays[] = {Way::kDirect, Way::kCurl};
const char* name_of(Way way) { return way == Way::kDirect ? "direct" : "libcurl"; }

struct Got {
  TransferResult result;
  Response response;
};

class Client {
 public:
  explicit Client(TrustStore trust) : transport_(settings(std::move(trust)), cancel_) {}

  Got get(const std::string& url, Way way = Way::kDirect) {
    Got got;
    BodySink sink;
    Request request{.method = "GET", .url = url};
    got.result = connection_.perform(request, &got.response, way == Way::kDirect ? &sink : nullptr);
    return got;
  }
  CancelToken& cancel() { return cancel_; }

 private:
  static TransportSettings settings(TrustStore trust) {
    TransportSettings out;
    out.connect_timeout_ms = 240'000;
    out.trust = std::move(trust);
    return out;
  }
  CancelToken cancel_;
  Transport transport_;
  Connection connection_{transport_};
};

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() { trust_ = trusting("ca.pem", authority_); }
  TrustStore trusting(const std::string& file, const Identity& authority) {
    std::ofstream(directory_.path(file)) << authority.pem();
    return {directory_.path(file), ""};
  }
  Identity issue(const Wanted& wanted) const {
    return Identity::make("server", wanted, &authority_);
  }
  Identity local() const { return issue({.names = "DNS:localhost,IP:127.0.0.1"}); }
  static std::string url(const TlsServer& server, const std::string& host = "localhost") {
    return "https://" + host + ":" + std::to_string(server.port()) + "/";
  }
  static std::size_t descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
  }

  testing::Directory directory_;
  const Identity authority_ =
      Identity::make("authority", {.names = "", .authority = true}, nullptr);
  TrustStore trust_;
};

TEST_F(TlsTest, ACertificateIsAcceptedForItsHostOnly) {
  struct Row {
    std::string host, names;
    bool fine;
    bool named;  // the server learns the name
  };
  const Row rows[] = {
      {"localhost", "DNS:localhost", true, true},
      {"LOCALHOST", "DNS:localhost", true, true},
      {"localhost", "DNS:other.test", false, true},
      {"localhost", "DNS:local*", false, true},
      {"localhost", "IP:127.0.0.1", false, true},
      {"a.b.localhost", "DNS:*.b.localhost", true, true},
      {"a.b.localhost", "DNS:*.localhost,DNS:b.localhost", false, true},
      {"127.0.0.1", "IP:127.0.0.1", true, false},
      {"127.1", "IP:127.0.0.1", true, false},
      {"127.0.0.1", "IP:127.0.0.2", false, false},
      {"127.0.0.1", "DNS:127.0.0.1,DNS:localhost", false, false},
      {"[::1]", "IP:::1", true, false},
      {"[::1]", "IP:::2,IP:127.0.0.1", false, false},
  };
  for (const Row& row : rows) {
    const bool v6 = row.host.starts_with('[');
    TlsServer server(
        issue({.names = row.names}), &TlsServer::greet, [](SSL_CTX*) {}, 0, v6);
    if (!server.ready()) continue;  // no IPv6 here
    int accepted = 0;
    for (const Way way : kWays) {
      const Got got = Client(trust_).get(url(server, row.host), way);
      const std::string what = row.host + " " + row.names + " " + name_of(way);
      EXPECT_EQ(got.result.status.ok(), row.fine) << what << got.result.status.to_string();
      if (row.fine) {
        EXPECT_EQ(got.response.body, "hello") << what;
        ++accepted;
      } else {
        EXPECT_FALSE(got.result.retry) << what;
        EXPECT_EQ(got.result.status.code(), Code::kNetwork) << what;
        EXPECT_NE(got.result.status.detail().hint.find("SSL_CERT_FILE"), std::string::npos) << what;
      }
    }
    EXPECT_EQ(server.named(), row.named ? server.handshakes() : 0) << row.host;
    EXPECT_GE(server.handshakes(), accepted);
  }
}

TEST_F(TlsTest, ACertificateHasToBeValidAndOfTheAuthority) {
  const std::string names = "DNS:localhost";
  const Identity other = Identity::make("authority", {.names = "", .authority = true}, nullptr);
  const Identity middle = Identity::make("middle", {.names = "", .authority = true}, &authority_);
  const Identity leaf = Identity::make("not an authority", {.names = names}, &authority_);
  Identity whole = Identity::make("server", {.names = names}, &middle);
  const Identity incomplete = whole;
  whole.chain = {middle.certificate};
  Identity by_a_leaf = Identity::make("server", {.names = names}, &leaf);
  by_a_leaf.chain = {leaf.certificate};
  const std::pair<Identity, bool> rows[] = {
      {issue({.names = names}), true},
      {whole, true},
      {incomplete, false},
      {by_a_leaf, false},
      {issue({.names = names, .from = -200, .until = -100}), false},
      {issue({.names = names, .from = 3600}), false},
      {Identity::make("server", {.names = names}, nullptr), false},
      {Identity::make("server", {.names = names}, &other), false},
  };
  int number = 0;
  for (const auto& [identity, fine] : rows) {
    TlsServer server(identity);
    for (const Way way : kWays) {
      const Got got = Client(trust_).get(url(server), way);
      EXPECT_EQ(got.result.status.ok(), fine)
          << number << " " << name_of(way) << " " << got.result.status.to_string();
      if (way == Way::kDirect) {
        EXPECT_FALSE(got.result.retry) << number;
      }
    }
    ++number;
  }
}

TEST_F(TlsTest, TheSameFilesAreTrustedOnBothWays) {
  const Identity other = Identity::make("other", {.names = "", .authority = true}, nullptr);
  const TrustStore wrong = trusting("other.pem", other);
  std::ofstream(directory_.path("empty.pem")) << "";
  const std::string hashed = directory_.path("hashed");
  std::filesystem::create_directory(hashed);
  std::filesystem::create_directory(directory_.path("none"));
  char hash[32];
  std::snprintf(hash, sizeof hash, "/%08lx.0",
                X509_subject_name_hash(authority_.certificate.get()));
  std::filesystem::copy_file(trust_.file, hashed + hash);
  const std::string none = directory_.path("none");
  const std::string absent = directory_.path("absent");
  const std::pair<TrustStore, bool> rows[] = {
      {{trust_.file, ""}, true},
      {{wrong.file, ""}, false},
      {{directory_.path("empty.pem"), ""}, false},
      {{"", hashed}, true},
      {{"", none}, false},
      {{"", absent}, false},
      {{"", none + ":" + hashed}, true},
      {{"", absent + ":" + hashed}, true},
      {{"", ":" + hashed + ":"}, true},
      {{wrong.file, hashed}, true},
      {{trust_.file, none}, true},
      {{trust_.file, absent}, true},
      {{wrong.file, none}, false},
  };
  TlsServer server(local());
  for (const auto& [trust, fine] : rows) {
    for (const Way way : kWays) {
      const Got got = Client(trust).get(url(server), way);
      EXPECT_EQ(got.result.status.ok(), fine) << trust.file << " " << trust.directory << " "
                                              << name_of(way) << got.result.status.to_string();
      EXPECT_FALSE(got.result.retry);
    }
  }
}

TEST_F(TlsTest, ServersOfOldVersionsAreNamed) {
  TlsServer server(local(), &TlsServer::greet, [](SSL_CTX* context) {
    SSL_CTX_set_cipher_list(context, "ALL:@SECLEVEL=0");
    SSL_CTX_set_min_proto_version(context, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(context, TLS1_1_VERSION);
  });
  for (const Way way : kWays) {
    const Got got = Client(trust_).get(url(server), way);
    EXPECT_NE(got.result.status.detail().message.find("neither TLS 1.2 nor"), std::string::npos)
        << name_of(way) << got.result.status.to_string();
    EXPECT_FALSE(got.result.retry);
  }
}

TEST_F(TlsTest, MessagesOfTlsAmongThoseOfHttpPass) {
  struct Row {
    const char* name;
    int version;
    bool within;  // a body, else behind it
    bool once;    // in each body
    std::function<int(SSL*)> act;
  };
  const Row rows[] = {
      {"renegotiation", TLS1_2_VERSION, false, true, &SSL_renegotiate},
      {"renegotiation", TLS1_2_VERSION, true, true, &SSL_renegotiate},
      {"key update", TLS1_3_VERSION, true, false,
       [](SSL* ssl) { return SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED); }},
      {"ticket", TLS1_3_VERSION, true, false, &SSL_new_session_ticket},
  };
  for (const Row& row : rows) {
    const auto act = [&](SSL* ssl) { return row.act(ssl) == 1 && SSL_do_handshake(ssl) == 1; };
    TlsServer server(
        local(),
        [&](SSL* ssl) {
          while (reads_request(ssl) && sends(ssl, kHead)) {
            for (const std::string part : {"h", "e", "l", "l", "o"}) {
              const bool now = row.within && (!row.once || part == "e");
              if ((now && !act(ssl)) || !sends(ssl, part)) return;
            }
            if (!row.within && !act(ssl)) return;
          }
        },
        [&](SSL_CTX* context) { SSL_CTX_set_max_proto_version(context, row.version); });
    for (const Way way : kWays) {
      Client client(trust_);
      for (int i = 0; i < 3; ++i) {
        const Got got = client.get(url(server), way);
        EXPECT_TRUE(got.result.status.ok())
            << row.name << name_of(way) << got.result.status.to_string();
        EXPECT_EQ(got.response.body, "hello") << row.name << name_of(way);
      }
    }
    if (row.within) {
      EXPECT_EQ(server.handshakes(), 2) << row.name;  // a connection for each way
    }
  }
}

TEST_F(TlsTest, AServerThatSendsMessagesOfTlsWithoutEndCanBeLeft) {
  constexpr std::size_t kTickets = 20'000;
  std::optional<Client> client(trust_);
  std::size_t sent = 0;
  {
    TlsServer server(local(), [&](SSL* ssl) {
      if (!reads_request(ssl) || !sends(ssl, kHead)) return;
      for (; sent < kTickets; ++sent) {
        if (SSL_new_session_ticket(ssl) != 1 || SSL_do_handshake(ssl) != 1) return;
        char byte = 0;
        const ssize_t left = ::recv(SSL_get_fd(ssl), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (left >= 0 || errno != EAGAIN) return;
        if (sent == 100) client->cancel().cancel();
      }
    });
    const Got got = client->get(url(server));
    EXPECT_EQ(got.result.status.code(), Code::kCancelled);
    client.reset();
  }
  EXPECT_LT(sent, kTickets);
}

TEST_F(TlsTest, ABodyWithoutALengthEndsWhereTheServerSaysSo) {
  for (const bool says : {true, false}) {
    TlsServer server(local(), [&](SSL* ssl) {
      if (!reads_request(ssl)) return;
      sends(ssl, "HTTP/1.1 200 OK\r\n\r\nhalf");
      if (!says) SSL_set_quiet_shutdown(ssl, 1);
    });
    for (const Way way : kWays) {
      const Got got = Client(trust_).get(url(server), way);
      EXPECT_EQ(got.result.status.ok(), says) << name_of(way) << got.result.status.to_string();
      EXPECT_EQ(got.result.retry, !says) << name_of(way);
      if (says) {
        EXPECT_EQ(got.response.body, "half") << name_of(way);
      }
    }
  }
}

TEST_F(TlsTest, SessionsAreResumedUnlessTheServerOrTheTrustIsAnother) {
  const Identity other = Identity::make("other", {.names = "", .authority = true}, nullptr);
  CancelToken cancel;
  TransportSettings ours, theirs;
  ours.trust = trust_;
  theirs.trust = trusting("other.pem", other);
  Transport transport(ours, cancel), elsewhere(theirs, cancel);
  Response response;
  ServerSocket socket;
  const auto connect = [&](Transport& by, int port) {
    Attempt attempt(&by, &response, nullptr);
    Url url;
    url.scheme = "https";
    url.host = "localhost";
    url.port = port;
    TransferResult result = socket.connect(url, {nullptr, {"127.0.0.1"}, {}},
                                           std::chrono::milliseconds(240'000), &attempt);
    if (!result.status.ok()) return false;
    std::size_t moved = 0;
    const std::string text = "GET / HTTP/1.1\r\n\r\n";
    EXPECT_EQ(socket.send(text.data(), text.size(), &moved), Io::kDone);
    char part[256];
    for (Io io = Io::kWaitsToRead; io != Io::kDone;) {
      io = socket.receive(part, sizeof part, &moved);
      if (io == Io::kFailed) return false;
      socket.wait(false, std::chrono::milliseconds(10));
    }
    return moved > 0;
  };
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const auto configure = [&](SSL_CTX* context) {
      SSL_CTX_set_max_proto_version(context, version);
    };
    int port = 0;
    {
      TlsServer server(local(), &TlsServer::greet, configure);
      port = server.port();
      EXPECT_TRUE(connect(transport, port));
      EXPECT_TRUE(connect(transport, port));
      EXPECT_TRUE(connect(transport, port));
      EXPECT_EQ(server.resumed(), 2) << version;
      EXPECT_FALSE(connect(elsewhere, port));
      EXPECT_EQ(server.resumed(), 2) << version;
      EXPECT_TRUE(connect(transport, port));
      socket.close();
    }
    TlsServer restarted(local(), &TlsServer::greet, configure, port);  // with other keys
    ASSERT_TRUE(restarted.ready());
    EXPECT_TRUE(connect(transport, port));
    EXPECT_EQ(restarted.resumed(), 0) << version;
    EXPECT_TRUE(connect(transport, port));
    EXPECT_EQ(restarted.resumed(), 1) << version;
    socket.close();
  }
}

// Between a client and a server: ends the connection after so many bytes of the server.
class CutOff {
 public:
  CutOff(int server, std::size_t after, bool reset) : server_(server), left_(after), reset_(reset) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in own = address(0);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&own), sizeof own) != 0) std::abort();
    listen(listener_, 4);
    socklen_t size = sizeof own;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&own), &size);
    port_ = ntohs(own.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~CutOff() {
    thread_.join();
    ::close(listener_);
  }
  int port() const { return port_; }
  bool cut() const { return cut_; }

 private:
  static sockaddr_in address(int port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    out.sin_port = htons(static_cast<std::uint16_t>(port));
    return out;
  }
  void run() {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in to = address(server_);
    if (::connect(server, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) std::abort();
    char part[4096];
    for (bool goes_on = true; goes_on && left_ > 0;) {
      pollfd both[2] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
      poll(both, 2, -1);
      if (both[0].revents != 0) {
        const ssize_t size = ::recv(client, part, sizeof part, 0);
        goes_on =
            size > 0 && ::send(server, part, static_cast<std::size_t>(size), MSG_NOSIGNAL) > 0;
      } else {
        const ssize_t size = ::recv(server, part, std::min(sizeof part, left_), 0);
        goes_on =
            size > 0 && ::send(client, part, static_cast<std::size_t>(size), MSG_NOSIGNAL) > 0;
        left_ -= static_cast<std::size_t>(std::max<ssize_t>(size, 0));
      }
    }
    cut_ = left_ == 0;
    const linger at_once{1, 0};
    if (reset_) setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    ::close(client);
    ::close(server);
  }

  const int server_;
  std::size_t left_;
  const bool reset_;
  std::atomic<bool> cut_{false};
  int listener_ = -1;
  int port_ = 0;
  std::thread thread_;
};

std::atomic<int> broken_pipes{0};

TEST_F(TlsTest, AConnectionThatIsCutOffAnywhereIsAnErrorToRetry) {
  std::signal(SIGPIPE, [](int) { ++broken_pipes; });
  const std::size_t before = descriptors();
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    TlsServer server(local(), &TlsServer::greet,
                     [&](SSL_CTX* context) { SSL_CTX_set_max_proto_version(context, version); });
    bool whole = false;
    for (std::size_t after = 0; !whole; after += after < 800 ? 37 : 11) {
      ASSERT_LT(after, 10'000u);
      CutOff relay(server.port(), after, after % 2 == 1);
      Client client(trust_);
      const Got got = client.get("https://localhost:" + std::to_string(relay.port()) + "/");
      whole = got.result.status.ok();
      if (whole) {
        EXPECT_EQ(got.response.body, "hello");
        continue;
      }
      EXPECT_TRUE(got.result.retry) << after << got.result.status.to_string();
      const Code code = got.result.status.code();
      EXPECT_TRUE(code == Code::kNetwork || code == Code::kShortRead) << after;
    }
  }
  EXPECT_EQ(descriptors(), before);
  EXPECT_EQ(broken_pipes, 0);
  std::signal(SIGPIPE, SIG_DFL);
}

TEST_F(TlsTest, ARequestEndsWithItsStreamInEveryState) {
  for (const std::string sent :
       {"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nh"}) {
    Client client(trust_);
    TlsServer server(local(), [&](SSL* ssl) {
      if (!reads_request(ssl)) return;
      if (!sent.empty()) sends(ssl, sent);
      client.cancel().cancel();
      reads_request(ssl);  // until the client leaves
    });
    EXPECT_EQ(client.get(url(server)).result.status.code(), Code::kCancelled) << sent;
  }
  // In the handshake.
  Client client(trust_);
  TlsServer server(local(), &TlsServer::greet, [&](SSL_CTX* context) {
    SSL_CTX_set_client_hello_cb(
        context,
        [](SSL* ssl, int*, void* cancel) {
          static_cast<CancelToken*>(cancel)->cancel();
          char byte = 0;
          while (::recv(SSL_get_fd(ssl), &byte, 1, 0) > 0) {  // until the client leaves
          }
          return SSL_CLIENT_HELLO_ERROR;
        },
        &client.cancel());
  });
  const Code code = client.get(url(server)).result.status.code();
  EXPECT_EQ(code, Code::kCancelled);
}

TEST_F(TlsTest, WithoutDescriptorsTheErrorSaysSo) {
  const std::string hashed = directory_.path("hashed");
  std::filesystem::create_directory(hashed);
  char hash[32];
  std::snprintf(hash, sizeof hash, "/%08lx.0",
                X509_subject_name_hash(authority_.certificate.get()));
  std::filesystem::copy_file(trust_.file, hashed + hash);
  TlsServer server(local());
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<std::uint16_t>(server.port()));
  ASSERT_EQ(::connect(socket, reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  while (server.accepted() == 0) std::this_thread::yield();

  Client client({"", hashed});
  Url host;
  host.scheme = "https";
  host.host = "localhost";
  TlsSession session;
  CertificateDemand demand;
  std::vector<int> taken{::dup(0)};
  while (taken.size() < 64) taken.push_back(::dup(0));
  rlimit old{};
  getrlimit(RLIMIT_NOFILE, &old);
  const rlimit few{static_cast<rlim_t>(taken.back() + 1), old.rlim_max};
  setrlimit(RLIMIT_NOFILE, &few);
  const Got none = client.get(url(server));
  // A certificate of a directory is read when it is needed.
  TransferResult late = session.begin(socket, host, {"", hashed}, &demand);
  if (late.status.ok() && session.handshake() == Io::kFailed) late = session.refusal();
  setrlimit(RLIMIT_NOFILE, &old);
  for (const int one : taken) ::close(one);
  session.end();
  ::close(socket);
  for (const TransferResult& result : {none.result, late}) {
    EXPECT_EQ(result.status.code(), Code::kIo) << result.status.to_string();
    EXPECT_EQ(result.status.detail().os_error, EMFILE);
    EXPECT_TRUE(result.retry);
  }
  EXPECT_TRUE(Client({"", hashed}).get(url(server)).result.status.ok());
}

// A child that finds a lock taken waits for ever. The allocator of AddressSanitizer has such locks:
// it does not know of forks.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ADDRESS_SANITIZER
#endif
#endif
#ifndef UNDER_ADDRESS_SANITIZER
TEST_F(TlsTest, AForkMayComeWhileCertificatesAreRead) {
  std::atomic<bool> ended{false};
  std::thread reading([&] {
    const TrustStore other = trusting("other.pem", authority_);
    for (bool turn = false; !ended; turn = !turn) load_certificates(turn ? other : trust_);
  });
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      _exit(load_certificates(trust_) != nullptr ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  ended = true;
  reading.join();
}
#endif

}  // namespace
}  // namespace streamer::http

#include "source/http/client/socks.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace streamer::http {
namespace {

using namespace std::string_literals;  // NOLINT: zero bytes within literals

ProxyServer proxy(const char* text) { return *parse_proxy(text); }

struct Dialogue {
  const char* proxy;
  std::string host;
  std::vector<std::string> requests, replies;
};

const std::vector<Dialogue>& good() {
  static const std::vector<Dialogue> dialogues{
      {"socks4://h", "10.0.0.7", {"\x04\x01\x23\x28\x0a\0\0\x07\0"s}, {"\0\x5a\0\0\0\0\0\0"s}},
      {"socks4://me:ignored@h",
       "10.0.0.7",
       {"\x04\x01\x23\x28\x0a\0\0\x07me\0"s},
       {"\0\x5a\x23\x28\x0a\0\0\x07"s}},
      {"socks4a://me@h",
       "s3.test",
       {"\x04\x01\x23\x28\0\0\0\x01me\0s3.test\0"s},
       {"\0\x5a\0\0\0\0\0\0"s}},
      {"socks5://h",
       "10.0.0.7",
       {"\x05\x01\0"s, "\x05\x01\0\x01\x0a\0\0\x07\x23\x28"s},
       {"\x05\0"s, "\x05\0\0\x01\0\0\0\0\0\0"s}},
      {"socks5h://h",
       "s3.test",
       {"\x05\x01\0"s, "\x05\x01\0\x03\x07s3.test\x23\x28"s},
       {"\x05\0"s, "\x05\0\0\x03\x05local\x23\x28"s}},
      {"socks5h://h",
       "s3.test",
       {"\x05\x01\0"s, "\x05\x01\0\x03\x07s3.test\x23\x28"s},
       {"\x05\0"s, "\x05\0\0\x03\0\0\0"s}},
      {"socks5h://h",
       "fd00::1",
       {"\x05\x01\0"s, "\x05\x01\0\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x23\x28"s},
       {"\x05\0"s, "\x05\0\0\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0"s}},
      {"socks5h://me:secret@h",
       "s3.test",
       {"\x05\x02\0\x02"s, "\x01\x02me\x06secret"s, "\x05\x01\0\x03\x07s3.test\x23\x28"s},
       {"\x05\x02"s, "\x01\0"s, "\x05\0\0\x01\0\0\0\0\0\0"s}},
      {"socks5h://me@h",
       "s3.test",
       {"\x05\x02\0\x02"s, "\x01\x02me\0"s, "\x05\x01\0\x03\x07s3.test\x23\x28"s},
       {"\x05\x02"s, "\x05\0"s, "\x05\0\0\x01\0\0\0\0\0\0"s}},
      {"socks5h://me:secret@h",  // it needs none
       "s3.test",
       {"\x05\x02\0\x02"s, "\x05\x01\0\x03\x07s3.test\x23\x28"s},
       {"\x05\0"s, "\x05\0\0\x01\0\0\0\0\0\0"s}},
  };
  return dialogues;
}

TEST(Socks, ConnectsInAnyPieces) {
  for (const std::size_t piece : {1, 2, 3, 100}) {
    for (const Dialogue& dialogue : good()) {
      const ProxyServer server = proxy(dialogue.proxy);
      SocksHandshake handshake(server, dialogue.host, 9000);
      for (std::size_t turn = 0; turn < dialogue.replies.size(); ++turn) {
        std::string request;
        while (!handshake.to_send().empty()) {
          const std::string_view part = handshake.to_send().substr(0, piece);
          request += part;
          handshake.sent(part.size());
        }
        EXPECT_EQ(request, dialogue.requests[turn]);
        for (std::string_view reply = dialogue.replies[turn]; !reply.empty();) {
          ASSERT_FALSE(handshake.done());
          ASSERT_TRUE(handshake.to_send().empty());
          const std::size_t part = std::min(piece, handshake.missing());
          ASSERT_GT(part, 0u);
          ASSERT_LE(part, reply.size());  // what follows is not asked for
          handshake.received(reply.substr(0, part));
          reply.remove_prefix(part);
        }
        ASSERT_TRUE(handshake.status().ok()) << handshake.status().detail().message;
      }
      EXPECT_TRUE(handshake.done());
      EXPECT_EQ(handshake.missing(), 0u);
    }
  }
}

// All that a proxy replies, whatever is asked.
SocksHandshake after(const ProxyServer& server, const std::string& host, std::string_view replies) {
  SocksHandshake handshake(server, host, 443);
  while (handshake.status().ok() && !handshake.done() && !replies.empty()) {
    handshake.sent(handshake.to_send().size());
    const std::size_t part = std::min(replies.size(), handshake.missing());
    handshake.received(replies.substr(0, part));
    replies.remove_prefix(part);
  }
  return handshake;
}

TEST(Socks, IsNotDoneBeforeTheLastByte) {
  for (const Dialogue& dialogue : good()) {
    const ProxyServer server = proxy(dialogue.proxy);
    std::string replies;
    for (const std::string& reply : dialogue.replies) replies += reply;
    for (std::size_t size = 0; size < replies.size(); ++size) {
      const SocksHandshake handshake = after(server, dialogue.host, replies.substr(0, size));
      EXPECT_TRUE(handshake.status().ok());
      EXPECT_FALSE(handshake.done());
      EXPECT_GT(handshake.missing() + handshake.to_send().size(), 0u);
    }
    EXPECT_TRUE(after(server, dialogue.host, replies).done());
  }
}

TEST(Socks, TellsWhyThereIsNoConnection) {
  struct Case {
    const char* proxy;
    std::string replies;
    const char* message;
    bool refused = false;
  };
  const std::vector<Case> cases{
      {"socks4://h", "\0\x5b"s, "reply 91 (refused or failed)"},
      {"socks4://h", "\0\x5d\0\0\0\0\0\0"s, "reply 93 (identd names another user)"},
      {"socks4://h", "\0\x01"s, "reply 1 (unknown)"},
      {"socks4://h", "H"s, "the proxy's reply is not SOCKS4"},
      {"socks5://h", "H"s, "the proxy's reply is not SOCKS5"},
      {"socks5://h", "\0\x5a"s, "the proxy's reply is not SOCKS5"},
      {"socks5://h", "\x05\xff"s, "demands a user and a password"},
      {"socks5://h", "\x05\x02"s, "demands another way"},
      {"socks5://me:secret@h", "\x05\xff"s, "demands another way"},
      {"socks5://me:secret@h", "\x05\x01"s, "demands another way"},
      {"socks5://me:secret@h", "\x05\x02\x01\x01"s, "does not accept the user and the password"},
      {"socks5://me:secret@h", "\x05\x02\x02"s, "the proxy's reply is not SOCKS5"},
      {"socks5://h", "\x05\0\x05\x05"s, "reply 5 (connection refused)", true},
      {"socks5://h", "\x05\0\x05\x02\0\x01"s, "reply 2 (not allowed)"},
      {"socks5://h", "\x05\0\x05\x7f"s, "reply 127 (unknown)"},
      {"socks5://h", "\x05\0\x04"s, "the proxy's reply is not SOCKS5"},
      {"socks5://h", "\x05\0\x05\0\0\x02"s, "the proxy's reply is not SOCKS5"},
  };
  for (const Case& one : cases) {
    const ProxyServer server = proxy(one.proxy);
    const SocksHandshake handshake = after(server, "10.0.0.7", one.replies);
    EXPECT_EQ(handshake.status().code(), Code::kNetwork) << one.message;
    const std::string& message = handshake.status().detail().message;
    EXPECT_NE(message.find(one.message), std::string::npos) << message;
    EXPECT_EQ(message.find("secret"), std::string::npos);
    EXPECT_EQ(handshake.refused(), one.refused);
    EXPECT_FALSE(handshake.done());
  }
}

TEST(Socks, RefusesWhatItCanNotSay) {
  const std::string name(256, 'n');
  struct Case {
    std::string proxy, host;
  };
  for (const Case& one : {Case{"socks4://h", "fd00::1"}, Case{"socks4://a%00b@h", "10.0.0.7"},
                          Case{"socks5h://h", name}, Case{"socks4a://h", name},
                          Case{"socks5://" + name + "@h", "10.0.0.7"},
                          Case{"socks5://me:" + name + "@h", "10.0.0.7"}}) {
    const ProxyServer server = proxy(one.proxy.c_str());
    const SocksHandshake handshake(server, one.host, 443);
    EXPECT_EQ(handshake.status().code(), Code::kInvalid) << one.proxy;
    EXPECT_TRUE(handshake.to_send().empty());
  }
  const ProxyServer server = proxy("socks5h://h");
  EXPECT_TRUE(SocksHandshake(server, name.substr(1), 443).status().ok());
}

}  // namespace
}  // namespace streamer::http

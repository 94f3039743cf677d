#include "source/http/client/proxy.h"

#include <gtest/gtest.h>

namespace streamer::http {
namespace {

bool direct(const char* url, const char* list) { return without_proxy(*parse_url(url), list); }

TEST(NoProxy, NamesHosts) {
  const char* const url = "http://minio.svc.local:9000/b";
  for (const char* list :
       {"*", "minio.svc.local", "svc.local", ".svc.local", "*.svc.local", "LOCAL",
        "minio.svc.local:9000", "a,b svc.local:9000", "other, local ", "local."}) {
    EXPECT_TRUE(direct(url, list)) << list;
  }
  for (const char* list : {"", ",", "inio.svc.local", "minio", "minio.svc.local:9001", "vc.local",
                           "svc.local:80", "10.0.0.0/8", "a.minio.svc.local", "."}) {
    EXPECT_FALSE(direct(url, list)) << list;
  }
}

TEST(NoProxy, NamesAddressesAndNetworks) {
  for (const char* list : {"10.1.2.3", "10.1.2.3:443", "10.0.0.0/8", "10.1.2.2/31", "0.0.0.0/0"}) {
    EXPECT_TRUE(direct("https://10.1.2.3/b", list)) << list;
  }
  for (const char* list : {"10.1.2.3:80", "10.1.2.4/31", "11.0.0.0/8", "10.0.0.0/x", "10.0.0.0/33",
                           "1.2.3", "::/0", "110.1.2.3"}) {
    EXPECT_FALSE(direct("https://10.1.2.3/b", list)) << list;
  }
  EXPECT_TRUE(direct("http://[fd00::1]:9000/b", "fd00::1"));
  EXPECT_TRUE(direct("http://[fd00::1]:9000/b", "[fd00:0::1]:9000"));
  EXPECT_TRUE(direct("http://[fd00::1]:9000/b", "fd00::/8"));
  EXPECT_FALSE(direct("http://[fd00::1]:9000/b", "[fd00::1]:80"));
  EXPECT_FALSE(direct("http://[fd00::1]:9000/b", "fe80::/10"));
}

TEST(Proxy, IsFoundByItsAddress) {
  const auto at = [](const char* text) {
    const auto proxy = parse_proxy(text);
    return proxy.ok() ? proxy->url.scheme + " " + proxy->url.host + " " +
                            std::to_string(proxy->url.port) + " " + proxy->authorization
                      : "none";
  };
  EXPECT_EQ(at("http://proxy.local:3128/x"), "http proxy.local 3128 ");
  EXPECT_EQ(at("proxy.local"), "http proxy.local 1080 ");
  EXPECT_EQ(at("http://proxy.local:80"), "http proxy.local 0 ");  // 0: the scheme's own
  EXPECT_EQ(at("HTTPS://Proxy.local"), "https proxy.local 0 ");
  EXPECT_EQ(at("http://[fd00::1]"), "http [fd00::1] 1080 ");
  EXPECT_EQ(at("http://[fd00::1]:9"), "http [fd00::1] 9 ");
  EXPECT_EQ(at("http://me:p%40s@proxy.local:9"), "http proxy.local 9 Basic bWU6cEBz");
  EXPECT_EQ(at("me@proxy.local:9"), "http proxy.local 9 Basic bWU6");
  for (const char* text : {"", "socks9://127.0.0.1:9", "ftp://h:1", "http://bad host:9", "http://",
                           "http://:3128", "h:0", "h:99999", "[::1", "http://[::1",
                           "http://[bad]:1", "me:pass/word@h:1", "me:1#word@h:1"}) {
    EXPECT_EQ(at(text), "none") << text;
  }
}

TEST(Proxy, OfSocksHasAVersion) {
  const auto at = [](const char* text) {
    const auto proxy = parse_proxy(text);
    if (!proxy.ok()) return std::string("none");
    EXPECT_EQ(proxy->url.scheme, "http") << text;
    EXPECT_EQ(proxy->authorization, "") << text;
    return std::to_string(proxy->socks) + (proxy->resolves ? "h " : " ") + proxy->url.host + " " +
           std::to_string(proxy->url.port) + " " + proxy->user + " " + proxy->password;
  };
  EXPECT_EQ(at("socks://proxy.local"), "4 proxy.local 1080  ");
  EXPECT_EQ(at("socks4://proxy.local:9/"), "4 proxy.local 9  ");
  EXPECT_EQ(at("SOCKS4A://me@Proxy.local"), "4h proxy.local 1080 me ");
  EXPECT_EQ(at("socks5://me:p%40s%3A@127.0.0.1:9"), "5 127.0.0.1 9 me p@s:");
  EXPECT_EQ(at("socks5h://[fd00::1]:443"), "5h [fd00::1] 443  ");
  EXPECT_EQ(at("socks5h://proxy.local:80"), "5h proxy.local 0  ");
  EXPECT_TRUE(parse_proxy("socks5h://localhost/run/s")->by_libcurl);
  EXPECT_FALSE(parse_proxy("socks5h://localhost/")->by_libcurl);
  for (const char* text : {"socks5://", "socks5://h:0", "socks6://h"}) {
    EXPECT_EQ(at(text), "none") << text;
  }
}

TEST(Proxy, ErrorsNameTheVariableOnly) {
  for (const char* text : {"ftp://me:hidden@h", "http://me:hidden@h:99999", "me:hid/den@h:1",
                           "socks5://me:hidden@", "http://hidden:x"}) {
    const auto proxy = parse_proxy(text, "all_proxy");
    ASSERT_FALSE(proxy.ok()) << text;
    EXPECT_EQ(proxy.status().code(), Code::kInvalid);
    const std::string message = proxy.status().to_string();
    EXPECT_NE(message.find("all_proxy does not name a proxy: "), std::string::npos) << message;
    EXPECT_NE(message.find("unset it"), std::string::npos) << message;
    EXPECT_EQ(message.find("hid"), std::string::npos) << message;
  }
}

TEST(Proxy, IsShownWithoutItsPassword) {
  const auto shown = [](const char* text) { return parse_proxy(text)->shown(); };
  EXPECT_EQ(shown("http://me:p@ss@proxy.local:3128/x"), "proxy.local:3128");
  EXPECT_EQ(shown("socks5://127.0.0.1:9"), "127.0.0.1:9");
  EXPECT_EQ(shown("proxy.local"), "proxy.local:1080");
  EXPECT_EQ(shown("https://proxy.local"), "proxy.local:443");
  EXPECT_EQ(shown("http://[fd00::1]:80"), "[fd00::1]:80");
}

}  // namespace
}  // namespace streamer::http

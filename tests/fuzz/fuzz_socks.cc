// Any bytes as the replies of a SOCKS proxy, in pieces of any size: a connection or an error, and
// never more replies than the handshake has.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "source/http/client/socks.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace streamer::http;
  constexpr const char* kProxies[] = {"socks4://h", "socks4a://me@h", "socks5h://h",
                                      "socks5://me:password@h"};
  constexpr const char* kHosts[] = {"10.0.0.7", "fd00::1", "s3.test"};
  constexpr std::size_t kMostBytes = 2 + 2 + 4 + 1 + 255 + 2;
  if (size < 3) return 0;
  const ProxyServer proxy = *parse_proxy(kProxies[data[0] % 4]);
  const std::size_t piece = 1 + data[2];
  std::string_view left(reinterpret_cast<const char*>(data) + 3, size - 3);
  SocksHandshake handshake(proxy, kHosts[data[1] % 3], 443);
  std::size_t received = 0;
  while (handshake.status().ok() && !handshake.done()) {
    if (const std::size_t unsent = handshake.to_send().size(); unsent > 0) {
      handshake.sent(std::min(piece, unsent));
      continue;
    }
    if (handshake.missing() == 0) std::abort();
    if (left.empty()) return 0;
    const std::size_t part = std::min({piece, left.size(), handshake.missing()});
    handshake.received(left.substr(0, part));
    left.remove_prefix(part);
    received += part;
  }
  if (received > kMostBytes) std::abort();
  return 0;
}

// Any bytes: a URL or an error, never a crash; what was understood is understood again, the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "text/url.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto url = streamer::http::parse_url({reinterpret_cast<const char*>(data), size});
  if (!url.ok()) return 0;
  if (url->host.empty() || (url->scheme != "http" && url->scheme != "https")) std::abort();
  (void)url->host_is_ip();
  (void)url->host_is_local();
  const auto again = streamer::http::parse_url(url->to_string());
  if (!again.ok() || again->to_string() != url->to_string()) std::abort();
  return 0;
}

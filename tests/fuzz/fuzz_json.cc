// Any bytes: a document or none, never a crash; objects have a value for each key.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "text/json.h"

namespace {

void check(const streamer::http::Json& value) {
  using Type = streamer::http::Json::Type;
  if (value.type == Type::kObject && value.keys.size() != value.items.size()) std::abort();
  if (value.type != Type::kObject && !value.keys.empty()) std::abort();
  for (const auto& item : value.items) check(item);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto document = streamer::http::parse_json({reinterpret_cast<const char*>(data), size});
  if (document) {
    check(*document);
    (void)document->string("error");
    (void)document->integer("expires_in");
  }
  return 0;
}

// Any bytes: a document or none, never a crash; no more text than there was.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "text/xml.h"

namespace {

// Reads everything that was made of the document.
std::size_t letters(const streamer::http::XmlElement& element) {
  std::size_t count = element.name.size() + element.text.size();
  for (const auto& child : element.children) count += letters(child);
  return count;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto document = streamer::http::parse_xml({reinterpret_cast<const char*>(data), size});
  if (document) {
    // Entities only ever get shorter: more text than was given was never in the document.
    if (letters(*document) > size) std::abort();
    (void)document->child("Contents");
    (void)document->child_text("NextContinuationToken");
  }
  return 0;
}

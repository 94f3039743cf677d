#include <algorithm>
#include <utility>

#include "base/cancel.h"
#include "source/source.h"
#include "streamer/stream.h"

namespace streamer {

Result<std::vector<ListedObject>> list(const std::string& prefix, bool recursive,
                                       const Options& options) {
  const std::string place = find_local_copy(prefix, /*folder=*/true, options);
  auto kind = source_kind_of(place);
  if (!kind.ok()) return kind.status();
  const CancelToken cancel;
  auto source = make_source(*kind, {options, cancel});
  if (!source.ok()) return source.status();
  auto reader = (*source)->make_reader();
  if (!reader.ok()) return reader.status();
  std::vector<ListedObject> found;
  Status status = (*reader)->list(place, recursive, [&](std::string path, std::uint64_t size) {
    if (place != prefix) path = prefix + path.substr(std::min(place.size(), path.size()));
    found.push_back({std::move(path), size});
  });
  if (!status.ok()) return std::move(status).with_path(prefix);
  std::sort(found.begin(), found.end(),
            [](const ListedObject& a, const ListedObject& b) { return a.path < b.path; });
  return found;
}

}  // namespace streamer

// Objects from a server to device memory; the sanitizers see both threads of it.
#ifdef STREAMER_OBJECT_STORAGE

#include <algorithm>
#include <atomic>
#include <cstring>

#include "abi/tiny_server.h"
#include "cuda/standin_fixture.h"

namespace streamer {
namespace {

class CudaHttpTest : public StandinTest {
 protected:
  // A server of one file of `size` bytes. What is asked for at `cut` ends in the middle, once.
  TinyServer::Answer serve(std::uint64_t size, std::uint64_t cut = ~std::uint64_t{0}) {
    const auto bytes = content(size);
    const std::string body(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return [this, body, cut](const std::string& request) mutable {
      const std::size_t at = request.find("ytes=") + 5;
      const std::uint64_t first = std::stoull(request.substr(at));
      const std::uint64_t last = std::min<std::uint64_t>(
          body.size() - 1, std::stoull(request.substr(request.find('-', at) + 1)));
      std::string answer = "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nETag: \"one\"\r\n";
      answer += "Content-Length: " + std::to_string(last - first + 1) +
                "\r\nContent-Range: bytes " + std::to_string(first) + "-" + std::to_string(last) +
                "/" + std::to_string(body.size()) + "\r\n\r\n";
      answer += body.substr(first, last - first + 1);
      if (first <= cut && cut <= last) {
        answer.resize(answer.size() - (last - cut));
        cut = ~std::uint64_t{0};
        ++cuts_;
      }
      return answer;
    };
  }

  std::atomic<int> cuts_ = 0;

  static void load(const std::string& url, const DeviceMemory& memory,
                   std::map<std::string, std::string> settings = {}) {
    auto stream = Stream::create(options(std::move(settings)));
    ASSERT_TRUE(stream.ok()) << stream.status().to_string();
    auto opened = (*stream)->open({url});
    ASSERT_TRUE(opened.ok() && opened->front().status.ok());
    std::vector<Range> ranges;
    for (std::uint64_t offset = 0, size = 1; offset < memory.size; offset += size, size *= 3) {
      size = std::min(size, memory.size - offset);
      ranges.push_back({offset, size, memory.data + offset});
    }
    ASSERT_TRUE((*stream)->submit({{0, ranges}}, {DeviceType::kCuda, 0, nullptr}).ok());
    for (const Status& status : drain(**stream, ranges.size())) {
      EXPECT_TRUE(status.ok()) << status.to_string();
    }
  }
};

TEST_F(CudaHttpTest, BytesAreWhereTheyBelong) {
  const std::uint64_t size = 6 * kMiB + 321;
  const TinyServer server(serve(size));
  const DeviceMemory memory(size);
  load(server.url() + "/model", memory, {{"RUNAI_STREAMER_CHUNK_BYTESIZE", "1048576"}});
  EXPECT_EQ(memory.bytes(), content(size));
}

TEST_F(CudaHttpTest, ASlotThatWasFilledInTwoAttemptsIsCopiedOnce) {
  const std::uint64_t size = 3 * kMiB;
  const TinyServer server(serve(size, 2 * kMiB));
  const DeviceMemory memory(size);
  load(server.url() + "/model", memory, {{"RUNAI_STREAMER_CHUNK_BYTESIZE", "1048576"}});
  EXPECT_EQ(memory.bytes(), content(size));
  EXPECT_EQ(counts().copied_bytes, size);
  EXPECT_EQ(cuts_, 1);
}

}  // namespace
}  // namespace streamer

#endif

#include "source/http/client/response_parser.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace streamer::http {
namespace {

// One response, read in pieces of `piece` bytes, as a connection might bring them.
class Reading {
 public:
  explicit Reading(std::size_t memory = 0) : memory_(memory, '.') {
    if (memory > 0) segment_ = {memory_.data(), memory};
    if (memory > 0) body_.segments = {&segment_, 1};
  }

  bool read(std::string_view text, std::size_t piece) {
    for (std::size_t at = 0; at < text.size() && !reader.done();) {
      const std::span<char> room = reader.room();
      std::size_t size = std::min(piece, text.size() - at);
      bool fine = false;
      if (!room.empty()) {
        size = std::min(size, room.size());
        std::memcpy(room.data(), text.data() + at, size);
        received += size;
        fine = reader.stored(size);
      } else {
        fine = reader.feed({text.data() + at, size});
      }
      if (!fine) return false;
      at += size;
    }
    return reader.done() || reader.closed();
  }
  const std::string& memory() const { return memory_; }

 private:
  const CancelToken cancel_;
  Transport transport_{TransportSettings(), cancel_};
  std::string memory_;
  iovec segment_{};
  BodySink body_;

 public:
  Response response;
  Attempt attempt{&transport_, &response, &body_};
  ResponseParser reader{&attempt};
  std::size_t received = 0;  // into memory, without a copy
};

class InPieces : public ::testing::TestWithParam<std::size_t> {};
INSTANTIATE_TEST_SUITE_P(ResponseParser, InPieces, ::testing::Values(1, 2, 7, 100000));

TEST_P(InPieces, BodyOfKnownLengthGoesToMemory) {
  Reading reading(10);
  ASSERT_TRUE(reading.read(
      "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nETag:  \"a\" \r\n\r\n0123456789",
      GetParam()));
  EXPECT_EQ(reading.memory(), "0123456789");
  EXPECT_EQ(reading.response.status, 206);
  EXPECT_EQ(reading.response.header("etag"), "\"a\"");
  EXPECT_TRUE(reading.reader.reusable());
  if (GetParam() == 1) {
    EXPECT_EQ(reading.received, 10u);
  }
}

TEST_P(InPieces, JoinsAChunkedBody) {
  Reading reading(8);
  ASSERT_TRUE(
      reading.read("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
                   "3\r\n012\r\n5;x=y\r\n34567\r\n0\r\nTrailer: 1\r\n\r\n",
                   GetParam()));
  EXPECT_EQ(reading.memory(), "01234567");
  EXPECT_TRUE(reading.reader.reusable());
}

TEST_P(InPieces, BodyUntilTheConnectionCloses) {
  Reading reading(4);
  ASSERT_TRUE(reading.read("HTTP/1.1 200 OK\n\n0123", GetParam()));
  EXPECT_EQ(reading.memory(), "0123");
  EXPECT_FALSE(reading.reader.reusable());
}

TEST_P(InPieces, BodyOfAnErrorIsText) {
  Reading reading(4);
  ASSERT_TRUE(reading.read("HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\n\r\noops", GetParam()));
  EXPECT_EQ(reading.response.body, "oops");
  EXPECT_EQ(reading.memory(), "....");
}

TEST_P(InPieces, InformationComesBeforeTheAnswer) {
  Reading reading(2);
  ASSERT_TRUE(
      reading.read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
                   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                   GetParam()));
  EXPECT_EQ(reading.response.status, 200);
  EXPECT_EQ(reading.response.header("link"), "");
  EXPECT_EQ(reading.memory(), "ok");
}

TEST_P(InPieces, WhatIsNoHttpIsRefused) {
  for (const char* text :
       {"garbage\r\n", "SSH-2.0-OpenSSH_9\r\n", "HTTP/2 200\r\n", "HTTP/1.1 \r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"}) {
    Reading reading(4);
    EXPECT_FALSE(reading.read(text, GetParam())) << text;
    EXPECT_FALSE(reading.reader.problem().empty()) << text;
  }
}

TEST(ResponseParser, ATrailerWithoutEndIsRefused) {
  std::string text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
  for (int line = 0; line < 70; ++line) text += "X: " + std::string(1000, 'x') + "\r\n";
  Reading reading(2);
  EXPECT_FALSE(reading.read(text, 1000));
  EXPECT_EQ(reading.memory(), "ok");
  EXPECT_NE(reading.reader.problem().find("trailer"), std::string::npos);
}

TEST(ResponseParser, MoreThanThereIsMemoryForIsAnError) {
  Reading reading(3);
  EXPECT_FALSE(reading.read("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n0123", 100));
  EXPECT_FALSE(reading.attempt.abort.ok());
}

TEST(ResponseParser, AnEndBeforeTheLastByteIsAnError) {
  for (const char* text : {"", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n012",
                           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n012"}) {
    Reading reading(4);
    EXPECT_FALSE(reading.read(text, 100)) << text;
    EXPECT_FALSE(reading.reader.reusable());
  }
}

TEST(ResponseParser, AConnectionThatTheServerClosesIsNotUsedAgain) {
  for (const char* text : {"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
                           "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"}) {
    Reading reading(4);
    EXPECT_TRUE(reading.read(text, 100)) << text;
    EXPECT_FALSE(reading.reader.reusable());
  }
}

TEST(ResponseParser, WhatFollowsTheAnswerEndsTheConnection) {
  Reading reading;
  EXPECT_TRUE(reading.read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200", 100));
  EXPECT_EQ(reading.response.body, "ok");
  EXPECT_FALSE(reading.reader.reusable());
}

TEST(ResponseParser, AnEndlessHeaderIsCut) {
  Reading line;
  EXPECT_FALSE(line.read("HTTP/1.1 200 OK\r\nX: " + std::string(1 << 20, 'x'), 4096));
  Reading lines;
  std::string text = "HTTP/1.1 200 OK\r\n";
  for (int i = 0; i < 100000; ++i) text += "X: y\r\n";
  EXPECT_FALSE(lines.read(text, 4096));
}

TEST(ResponseParser, OnlyTheFrontOfAnErrorIsRead) {
  for (const char* status : {"403 No", "302 Found", "503 Busy"}) {
    Reading reading(10);
    const std::string head = std::string("HTTP/1.1 ") + status + "\r\n\r\n";
    EXPECT_FALSE(reading.read(head + std::string(1 << 20, 'x'), 4096));
    EXPECT_TRUE(reading.attempt.ended_early);
    EXPECT_TRUE(reading.attempt.abort.ok());
    EXPECT_EQ(reading.response.body.size(), 64u << 10);
    EXPECT_LE(reading.attempt.bytes, 68u << 10);
  }
}

TEST(ResponseParser, TextsHaveALimit) {
  Reading reading;
  EXPECT_FALSE(reading.read("HTTP/1.1 200 OK\r\n\r\n" + std::string(17 << 20, 'x'), 1 << 16));
  EXPECT_NE(reading.attempt.abort.detail().message.find("16777216"), std::string::npos);
  EXPECT_FALSE(reading.attempt.ended_early);
}

TEST(ResponseParser, CompressedContentIsRefused) {
  for (const char* header : {"Content-Encoding: gzip", "content-encoding: br, gzip",
                             "x-goog-stored-content-encoding: gzip"}) {
    for (const char* status : {"206 Partial Content", "200 OK"}) {
      Reading reading(4);
      EXPECT_FALSE(reading.read(
          std::string("HTTP/1.1 ") + status + "\r\nContent-Length: 4\r\n" + header + "\r\n\r\n0123",
          64));
      EXPECT_NE(reading.attempt.abort.detail().message.find("compressed"), std::string::npos);
      EXPECT_EQ(reading.memory(), "....");
    }
  }
  for (const char* header : {"Content-Encoding: identity", "Content-Encoding: aws-chunked",
                             "x-goog-stored-content-encoding: identity"}) {
    Reading reading(4);
    EXPECT_TRUE(reading.read(
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n") + header + "\r\n\r\n0123", 64));
  }
}

TEST(ResponseParser, AServerThatSpeaksTlsIsNamed) {
  Reading reading;
  EXPECT_FALSE(reading.read("\x15\x03\x01", 1));
  EXPECT_NE(reading.reader.problem().find("TLS"), std::string::npos);
}

TEST(ResponseParser, TextOfARequest) {
  Request request;
  request.set("Range", "bytes=0-9");
  request.set("X-Empty", "");
  EXPECT_EQ(format_request(request, *parse_url("http://h:9000/a%20b?x=1"), "me/1"),
            "GET /a%20b?x=1 HTTP/1.1\r\nHost: h:9000\r\nUser-Agent: me/1\r\nAccept: */*\r\n"
            "Accept-Encoding: identity\r\nRange: bytes=0-9\r\nX-Empty: \r\n\r\n");
}

}  // namespace
}  // namespace streamer::http

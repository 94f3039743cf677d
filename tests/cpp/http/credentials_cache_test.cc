#include "source/http/auth/credentials_cache.h"

#include <gtest/gtest.h>

#include <future>
#include <stdexcept>
#include <thread>

#include "source/http/client/connection.h"

namespace streamer::http {
namespace {

class CredentialsCacheTest : public testing::Test {
 protected:
  // What the resolver finds is numbered: "1", "2", ...
  Result<Credentials> resolve() {
    ++asked_;
    if (at_work_) at_work_();
    if (broken_) return Status::error(Code::kCredentials, "the service is down");
    Credentials found;
    found.values["n"] = std::to_string(asked_);
    found.expires_at = lifetime_ == 0 ? 0 : now_ + lifetime_;
    return found;
  }
  std::string get() {
    const Result<CredentialsRef> found = cache_.get("bucket", connection_);
    return found.ok() ? value_of(**found, "n") : found.status().detail().message;
  }
  CredentialsRef current() { return *cache_.get("bucket", connection_); }

  std::int64_t now_ = 1'000'000;
  std::int64_t lifetime_ = 3600;
  bool broken_ = false;
  int asked_ = 0;
  std::function<void()> at_work_;  // while the resolver works
  CancelToken cancel_;
  Transport transport_{TransportSettings(), cancel_};
  Connection connection_{transport_};
  CredentialsCache cache_{
      SourceKind::kS3, {}, [this](auto&&...) { return resolve(); }, "", [this] { return now_; }};
};

TEST_F(CredentialsCacheTest, AsksOnceForEachContainer) {
  EXPECT_EQ(get(), "1");
  EXPECT_EQ(get(), "1");
  EXPECT_EQ(value_of(**cache_.get("other", connection_), "n"), "2");
}

TEST_F(CredentialsCacheTest, AResolverThatThrowsHasFailed) {
  at_work_ = [] { throw std::runtime_error("out of luck"); };
  EXPECT_EQ(get(), "no credentials: out of luck");
  at_work_ = {};
  EXPECT_EQ(get(), "2");
}

TEST_F(CredentialsCacheTest, RefreshesMinutesAheadOfTheEnd) {
  EXPECT_EQ(get(), "1");
  now_ += 3600 - 301;
  EXPECT_EQ(get(), "1");
  now_ += 1;
  EXPECT_EQ(get(), "2");
}

TEST_F(CredentialsCacheTest, ShortLivedOnesAreRefreshedLater) {
  lifetime_ = 300;  // a session of a directory bucket
  EXPECT_EQ(get(), "1");
  now_ += 239;
  EXPECT_EQ(get(), "1");
  now_ += 1;
  EXPECT_EQ(get(), "2");
}

TEST_F(CredentialsCacheTest, IsNotAskedAtEveryRequest) {
  lifetime_ = 10;
  EXPECT_EQ(get(), "1");
  now_ += 9;
  EXPECT_EQ(get(), "1");
  now_ += 1;
  EXPECT_EQ(get(), "2");
}

TEST_F(CredentialsCacheTest, WhatWasJustIssuedCountsThoughTheClockIsAhead) {
  lifetime_ = -3600;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(get(), "1");
  EXPECT_EQ(asked_, 1);
  broken_ = true;
  now_ += 59;
  EXPECT_EQ(get(), "1");
  now_ += 1;
  EXPECT_EQ(get(), "the service is down");
}

TEST_F(CredentialsCacheTest, KeepsWhatIsValidWhileTheServiceIsDown) {
  EXPECT_EQ(get(), "1");
  broken_ = true;
  now_ += 3600 - 200;
  EXPECT_EQ(get(), "1");
  EXPECT_EQ(get(), "1");
  EXPECT_EQ(asked_, 2);  // not again at once
  now_ += 15;
  EXPECT_EQ(get(), "1");
  EXPECT_EQ(asked_, 3);
  now_ += 200;
  EXPECT_EQ(get(), "the service is down");
  broken_ = false;
  EXPECT_EQ(get(), "5");
}

TEST_F(CredentialsCacheTest, WhatNeverExpiresIsKept) {
  lifetime_ = 0;
  EXPECT_EQ(get(), "1");
  now_ += 1'000'000;
  EXPECT_EQ(get(), "1");
}

TEST_F(CredentialsCacheTest, RefusedOnesAreReplacedOnceForAllThreads) {
  const CredentialsRef used = current();
  cache_.refused("bucket", used);
  EXPECT_EQ(get(), "2");
  cache_.refused("bucket", used);  // another thread, refused likewise for an older request
  EXPECT_EQ(get(), "2");
  broken_ = true;
  cache_.refused("bucket", current());
  EXPECT_EQ(get(), "the service is down");
}

TEST_F(CredentialsCacheTest, ValidOnesServeWhileTheNextAreOnTheirWay) {
  EXPECT_EQ(get(), "1");
  now_ += 3600 - 200;
  at_work_ = [this] {
    Connection other(transport_);
    std::async(std::launch::async, [&] {
      EXPECT_EQ(value_of(**cache_.get("bucket", other), "n"), "1");
    }).get();
  };
  EXPECT_EQ(get(), "2");
  EXPECT_EQ(asked_, 2);
}

TEST_F(CredentialsCacheTest, ThreadsWithoutValidOnesWaitForOneAnswer) {
  std::vector<std::future<std::string>> others;
  at_work_ = [&] {
    if (asked_ > 1) return;
    for (int i = 0; i < 4; ++i) {
      others.push_back(std::async(std::launch::async, [this] {
        Connection other(transport_);
        return value_of(**cache_.get("bucket", other), "n");
      }));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  };
  EXPECT_EQ(get(), "1");
  for (auto& other : others) EXPECT_EQ(other.get(), "1");
  EXPECT_EQ(asked_, 1);
}

TEST_F(CredentialsCacheTest, AThreadThatWaitsIsInterrupted) {
  at_work_ = [this] {
    cancel_.cancel();
    Connection other(transport_);
    const auto found =
        std::async(std::launch::async, [&] { return cache_.get("bucket", other); }).get();
    EXPECT_EQ(found.status().code(), Code::kCancelled);
  };
  get();
}

}  // namespace
}  // namespace streamer::http

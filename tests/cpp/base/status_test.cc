#include "streamer/status.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace streamer {
namespace {

TEST(Status, IsOkByDefault) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), Code::kOk);
  EXPECT_EQ(status.to_string(), "ok");
  EXPECT_TRUE(status.detail().message.empty());
}

TEST(Status, SaysEverythingItKnowsInOneLine) {
  const Status status = Status::error(Code::kIo, "cannot read")
                            .with_path("/models/a")
                            .with_range(10, 20)
                            .with_errno(5)
                            .with_hint("Look at the device");
  const std::string text = status.to_string();
  for (const char* part :
       {"/models/a", "cannot read", "10", "30", "errno 5", "Look at the device"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST(Status, KeepsThePathRangeEndpointAndHintThatWereSetFirst) {
  const Status status = Status::error(Code::kIo, "x")
                            .with_path("first")
                            .with_path("second")
                            .with_range(1, 2)
                            .with_range(3, 4)
                            .with_endpoint("http://a (X)")
                            .with_endpoint("http://b")
                            .with_hint("")
                            .with_hint("one")
                            .with_hint("two");
  EXPECT_EQ(status.detail().path, "first");
  EXPECT_EQ(status.detail().offset, 1u);
  EXPECT_EQ(status.detail().size, 2u);
  EXPECT_EQ(status.detail().endpoint, "http://a (X)");
  EXPECT_EQ(status.detail().hint, "one");
  EXPECT_NE(status.to_string().find("; endpoint: http://a (X)"), std::string::npos);
}

TEST(Status, StaysOkWhateverIsAdded) {
  const Status status = Status().with_path("p").with_range(1, 2).with_errno(3).with_hint("h");
  EXPECT_TRUE(status.ok());
  EXPECT_TRUE(status.detail().path.empty());
}

TEST(Status, CopiesAreApart) {
  Status one = Status::error(Code::kIo, "x");
  Status other = one;
  other = std::move(other).with_path("p");
  EXPECT_TRUE(one.detail().path.empty());
  EXPECT_EQ(other.detail().path, "p");
  one = Status();
  EXPECT_TRUE(one.ok());
  EXPECT_FALSE(other.ok());
}

TEST(Status, EveryCodeHasANameOfItsOwn) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(Code::kFormat); ++code) {
    const std::string name = code_name(static_cast<Code>(code));
    EXPECT_NE(name, "unknown") << code;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
}

TEST(Result, HoldsAValueOrAStatus) {
  const Result<int> good = 3;
  EXPECT_TRUE(good.ok());
  EXPECT_EQ(*good, 3);
  EXPECT_TRUE(good.status().ok());
  const Result<int> bad = Status::error(Code::kInvalid, "no");
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().code(), Code::kInvalid);
}

}  // namespace
}  // namespace streamer

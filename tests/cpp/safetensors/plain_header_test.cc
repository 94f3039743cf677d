#include "safetensors/plain_header.h"

#include <gtest/gtest.h>

#include <string>

namespace streamer::safetensors {
namespace {

constexpr std::string_view kA = R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})";

std::optional<PlainHeader> parse(std::string_view text, std::uint64_t data_size) {
  return parse_plain_header(text, data_size, {{"F32", 32}, {"U8", 8}, {"F4", 4}});
}

std::optional<PlainHeader> parse_one(const std::string& tensor, std::uint64_t data_size) {
  return parse(R"({"a":{)" + tensor + "}}", data_size);
}

TEST(PlainHeader, GivesNameDtypeShapeAndPlace) {
  const std::string text = "{" + std::string(kA) + "}";
  const auto header = parse(text, 24);
  ASSERT_TRUE(header);
  ASSERT_EQ(header->tensors.size(), 1U);
  const PlainTensor& tensor = header->tensors[0];
  EXPECT_EQ(tensor.name, "a");
  EXPECT_EQ(tensor.dtype, 0U);
  EXPECT_EQ(tensor.rank, 2U);
  EXPECT_EQ(header->dimensions, (std::vector<std::uint64_t>{2, 3}));
  EXPECT_EQ(tensor.start, 0U);
  EXPECT_EQ(tensor.end, 24U);
}

TEST(PlainHeader, SortsTensorsByPlace) {
  const auto header = parse(R"({"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]},)"
                            R"("a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
                            7);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[1].name, "b");
}

TEST(PlainHeader, TakesKeysInAnyOrderAndSpaces) {
  EXPECT_TRUE(
      parse(" {\n\"a\" :\t{ \"data_offsets\" : [ 0 , 1 ] , \"shape\" : [ ] ,\r"
            "\"dtype\" : \"U8\" } }   ",
            1));
}

TEST(PlainHeader, TakesMetadata) {
  const auto header = parse(R"({"__metadata__":{"format":"pt","x":""}})", 0);
  ASSERT_TRUE(header);
  ASSERT_EQ(header->metadata.size(), 2U);
  EXPECT_EQ(header->metadata[0], (std::pair<std::string_view, std::string_view>("format", "pt")));
  EXPECT_EQ(header->metadata[1].second, "");
}

TEST(PlainHeader, TakesAnEmptyTensorAndAnEmptyFile) {
  EXPECT_TRUE(parse_one(R"("dtype":"F32","shape":[0,5],"data_offsets":[0,0])", 0));
  EXPECT_TRUE(parse("{}", 0));
}

TEST(PlainHeader, HalfBytesMustAddUp) {
  EXPECT_TRUE(parse_one(R"("dtype":"F4","shape":[2],"data_offsets":[0,1])", 1));
  EXPECT_FALSE(parse_one(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])", 1));
}

// What is left to the complete parser: contradictions, and what is only uncommon.
TEST(PlainHeader, LeavesTheRestAlone) {
  for (const char* tensor : {
           R"("dtype":"F32","shape":[2],"data_offsets":[0,9])",        // size
           R"("dtype":"F32","shape":[2],"data_offsets":[8,0])",        // reversed
           R"("dtype":"F32","shape":[2],"data_offsets":[4,12])",       // a gap before
           R"("dtype":"F31","shape":[2],"data_offsets":[0,8])",        // dtype
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])",      // a third offset
           R"("dtype":"F32","shape":[2],"data_offsets":[0])",          // no end
           R"("dtype":"F32","shape":[2])",                             // no place
           R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)",  // another key
           R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[02],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[2,],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[00000000000000000002],"data_offsets":[0,8])",
           R"("dtype":"F32","shape":[18446744073709551618],"data_offsets":[0,8])",
       }) {
    EXPECT_FALSE(parse_one(tensor, 8)) << tensor;
  }
  const std::string a(kA);
  for (const std::string& text : {
           std::string(),
           std::string("{"),
           std::string("[]"),
           "{" + a,
           "{" + a + ",}",
           "{" + a + "}x",
           "{" + a + "}{}",
           "{" + a + "," + a + "}",
           std::string(R"({"\u0061":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}})"),
           std::string("{\"\xc3\xa9\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}}"),
           std::string("{\"a\n\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}}"),
           "{\"__metadata__\":{\"x\":1}," + a + "}",
           "{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}," + a + "}",
           "{\"__metadata__\":{},\"__metadata__\":{}," + a + "}",
           "{\"__metadata__\":null," + a + "}",
       }) {
    EXPECT_FALSE(parse(text, 24)) << text;
  }
  EXPECT_FALSE(parse("{" + a + "}", 23));
  EXPECT_FALSE(parse("{" + a + "}", 25));
}

TEST(PlainHeader, NamesOfEmptyTensorsMustDifferToo) {
  const std::string empty = R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_TRUE(parse("{" + empty + "}", 0));
  EXPECT_FALSE(parse("{" + empty + "," + empty + "}", 0));
}

}  // namespace
}  // namespace streamer::safetensors

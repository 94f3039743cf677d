#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "safetensors/foreign_file.h"
#include "streamer/safetensors.h"

namespace streamer::safetensors {
namespace {

constexpr std::string_view kA = R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})";

std::string length_of(std::uint64_t size) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(size >> (8 * i));
  return bytes;
}

// The header `text` of a file with `data_size` bytes of data.
Result<Header> parse(std::string_view text, std::uint64_t data_size) {
  return parse_header(length_of(text.size()) + std::string(text), 8 + text.size() + data_size);
}

Result<Header> parse_one(const std::string& tensor, std::uint64_t data_size) {
  return parse(R"({"a":{)" + tensor + "}}", data_size);
}

// What is wrong with a header; "" if nothing is.
std::string fault(const Result<Header>& header) {
  return header.ok() ? "" : header.status().to_string();
}

TEST(Header, GivesNameDtypeShapeAndPlace) {
  const std::string text = "{" + std::string(kA) + "}";
  const auto header = parse(text, 24);
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->data_offset, 8 + text.size());
  ASSERT_EQ(header->tensors.size(), 1U);
  const Tensor& tensor = header->tensors[0];
  EXPECT_EQ(tensor.name, "a");
  EXPECT_EQ(tensor.dtype, Dtype::kF32);
  EXPECT_EQ(std::vector<std::uint64_t>(tensor.shape.begin(), tensor.shape.end()),
            (std::vector<std::uint64_t>{2, 3}));
  EXPECT_EQ(tensor.begin, 0U);
  EXPECT_EQ(tensor.end, 24U);
}

TEST(Header, SortsTensorsByPlace) {
  const auto header = parse(R"({"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]},)"
                            R"("a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
                            7);
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[1].name, "b");
}

TEST(Header, KeepsThousandsOfShapesAndNames) {
  std::string text = "{";
  for (int i = 0; i < 20'000; ++i) {
    text += (i == 0 ? "\"t" : ",\"t") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0,)" +
            std::to_string(i) + R"(],"data_offsets":[0,0]})";
  }
  const auto header = parse(text + "}", 0);
  ASSERT_TRUE(header.ok());
  for (int i = 0; i < 20'000; ++i) {
    ASSERT_EQ(header->tensors[i].name, "t" + std::to_string(i));
    ASSERT_EQ(header->tensors[i].shape[1], static_cast<std::uint64_t>(i));
  }
}

TEST(Header, TakesKeysInAnyOrderSpacesAndUnknownMembers) {
  const auto header = parse(
      " {\n\"a\" :\t{ \"data_offsets\" : [ 0 , 1 ] , \"shape\" : [ ] , \"x\": [1e5, {}],\r"
      "\"dtype\" : \"U8\" } }   ",
      1);
  EXPECT_EQ(fault(header), "");
}

TEST(Header, TakesMetadata) {
  const auto header = parse(R"({"__metadata__":{"format":"pt","x":""}})", 0);
  ASSERT_TRUE(header.ok());
  ASSERT_EQ(header->metadata.size(), 2U);
  EXPECT_EQ(header->metadata[0], (std::pair<std::string_view, std::string_view>("format", "pt")));
  EXPECT_EQ(header->metadata[1].second, "");
  EXPECT_EQ(fault(parse(R"({"__metadata__":null})", 0)), "");
}

TEST(Header, TakesAnEmptyTensorAndAnEmptyFile) {
  EXPECT_EQ(fault(parse_one(R"("dtype":"F32","shape":[0,5],"data_offsets":[0,0])", 0)), "");
  EXPECT_EQ(fault(parse("{}", 0)), "");
}

TEST(Header, DecodesNames) {
  const auto header = parse(
      "{\"\\u0061\\\"\\n\\ud83d\\ude00\xc3\xa9\\/\":{\"dtype\":\"U8\",\"shape\":[0],"
      "\"data_offsets\":[0,0]}}",
      0);
  ASSERT_TRUE(header.ok()) << fault(header);
  EXPECT_EQ(header->tensors[0].name, "a\"\n\xf0\x9f\x98\x80\xc3\xa9/");
}

TEST(Header, TakesTheLargestNumbers) {
  EXPECT_EQ(
      fault(parse_one(R"("dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0])", 0)),
      "");
}

struct Bad {
  const char* tensor;
  const char* words;
};

TEST(Header, NamesWhatIsWrongWithATensor) {
  for (const Bad& bad : {
           Bad{R"("dtype":"F32","shape":[2],"data_offsets":[0,9])",
               "tensor 'a': Shape claims 8 bytes ([2] of F32) but offsets reserve 9"},
           Bad{R"("dtype":"F32","shape":[2],"data_offsets":[8,0])", "[8, 0] are reversed"},
           Bad{R"("dtype":"F32","shape":[2],"data_offsets":[4,12])",
               "tensor 'a' does not start at the beginning of the data: its offset is 4"},
           Bad{R"("dtype":"F31","shape":[2],"data_offsets":[0,8])",
               "Unsupported dtype 'F31' of tensor 'a'"},
           Bad{R"("dtype":3,"shape":[2],"data_offsets":[0,8])", "Unsupported dtype '3'"},
           Bad{R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])", "must be lists"},
           Bad{R"("dtype":"F32","shape":[2],"data_offsets":[0])", "must be lists"},
           Bad{R"("dtype":"F32","shape":2,"data_offsets":[0,8])", "must be lists"},
           Bad{R"("dtype":"F32","shape":[2],"data_offsets":"0")", "must be lists"},
           Bad{R"("dtype":"F32","shape":[2])", "tensor 'a' has no data_offsets"},
           Bad{R"("dtype":"F32","data_offsets":[0,8])", "tensor 'a' has no shape"},
           Bad{R"("shape":[2],"data_offsets":[0,8])", "tensor 'a' has no dtype"},
           Bad{R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])",
               "duplicate name 'dtype'"},
           Bad{R"("x":1,"x":1,"dtype":"F32","shape":[2],"data_offsets":[0,8])",
               "duplicate name 'x'"},
           Bad{R"("x":{"y":1,"\u0079":1},"dtype":"F32","shape":[2],"data_offsets":[0,8])",
               "duplicate name 'y'"},
           Bad{R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])", "-2 in its shape is not"},
           Bad{R"("dtype":"F32","shape":[-0],"data_offsets":[0,8])", "-0 in its shape is not"},
           Bad{R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])", "2.0 in its shape is not"},
           Bad{R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])", "\"2\" in its shape"},
           Bad{R"("dtype":"F32","shape":[2],"data_offsets":[0,true])", "true in data_offsets"},
           Bad{R"("dtype":"F32","shape":[02],"data_offsets":[0,8])", "not valid JSON"},
           Bad{R"("dtype":"F32","shape":[2,],"data_offsets":[0,8])", "not valid JSON"},
           Bad{R"("dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8])",
               "the product of its shape overflows"},
           Bad{R"("dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,8])",
               "the size of its shape overflows"},
           Bad{R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8])",
               "18446744073709551616 in its shape is not a count"},
           Bad{R"("dtype":"F4","shape":[3],"data_offsets":[0,1])",
               "3 elements of F4 do not fill whole bytes"},
       }) {
    const auto header = parse_one(bad.tensor, 8);
    EXPECT_NE(fault(header).find(bad.words), std::string::npos)
        << bad.tensor << " gives: " << fault(header);
    EXPECT_EQ(header.status().code(), Code::kFormat) << bad.tensor;
  }
}

TEST(Header, NamesWhatIsWrongWithTheText) {
  const std::string a(kA);
  const std::string empty = R"("e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  const struct {
    std::string text;
    const char* words;
  } kBad[] = {
      {"", "not valid JSON: it is empty"},
      {"{", "not valid JSON: unexpected end at byte 1"},
      {"[]", "not an object"},
      {"[", "not valid JSON: unexpected end"},
      {"{" + a, "not valid JSON"},
      {"{" + a + ",}", "not valid JSON: expected '\"' at byte"},
      {"{" + a + "}x", "unexpected text behind the value"},
      {"{" + a + "}" + std::string(3, '\0'), "a NUL byte behind the value"},
      {"\xef\xbb\xbf{" + a + "}", "not valid JSON"},
      {"{" + a + "," + a + "}", "duplicate name 'a'"},
      {"{" + a + "," + R"("\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
       "duplicate name 'a'"},
      {"{" + empty + "," + empty + "," + a + "}", "duplicate name 'e'"},
      {"{\"a\n\":1}", "a control character in a string at byte 3"},
      {"{\"\\x\":1}", "an invalid escape"},
      {"{\"\\ud800\":1}", "a lone surrogate"},
      {"{\"\\udc00\":1}", "a lone surrogate"},
      {"{\"\\u00g0\":1}", "an invalid escape"},
      {"{\"\xff\":1}", "the header is not valid UTF-8 (byte 2)"},
      {"{\"\xed\xa0\x80\":1}", "the header is not valid UTF-8 (byte 2)"},
      {"{\"\xc0\x80\":1}", "the header is not valid UTF-8 (byte 2)"},
      {"{\"a\":1}", "tensor 'a' is not described by an object"},
      {"{\"a\":1,}", "not valid JSON"},  // what is wrong with the text comes first
      {"{\"a\":NaN}", "not valid JSON"},
      {"{\"a\":01}", "not valid JSON"},
      {"{\"a\":-}", "not valid JSON: expected a digit"},
      {"{\"__metadata__\":{\"x\":1}," + a + "}", "__metadata__ is not a map of text to text"},
      {"{\"__metadata__\":[]," + a + "}", "__metadata__ is not a map of text to text"},
      {"{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}," + a + "}", "duplicate name 'x'"},
      {"{\"__metadata__\":{},\"__metadata__\":{}," + a + "}", "duplicate name '__metadata__'"},
  };
  for (const auto& bad : kBad) {
    const auto header = parse(bad.text, 24);
    EXPECT_NE(fault(header).find(bad.words), std::string::npos)
        << bad.text << " gives: " << fault(header);
    EXPECT_EQ(header.status().code(), Code::kFormat) << bad.text;
  }
}

TEST(Header, NamesOverlapsAndGaps) {
  const std::string x =
      R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8",)";
  EXPECT_NE(fault(parse(x + R"("shape":[4],"data_offsets":[2,6]}})", 6))
                .find("tensor 'x' overlaps with next tensor 'y'"),
            std::string::npos);
  EXPECT_NE(fault(parse(x + R"("shape":[2],"data_offsets":[6,8]}})", 8))
                .find("Gaps between tensors are not allowed: 2 bytes between 'x' and 'y'"),
            std::string::npos);
}

TEST(Header, ComparesWithTheSizeOfTheFile) {
  const std::string text = "{" + std::string(kA) + "}";
  EXPECT_EQ(parse(text, 23).status().code(), Code::kShortRead);
  EXPECT_NE(fault(parse(text, 23)).find("its header describes 24 bytes of data, it has 23"),
            std::string::npos);
  EXPECT_NE(fault(parse(text, 25)).find("1 extra trailing bytes"), std::string::npos);
}

TEST(Header, DepthIsLimited) {
  const auto nested = [](int depth) {
    return parse_one(R"("dtype":"U8","shape":[0],"data_offsets":[0,0],"x":)" +
                         std::string(depth, '[') + std::string(depth, ']'),
                     0);
  };
  EXPECT_EQ(fault(nested(100)), "");
  EXPECT_NE(fault(nested(200)).find("nested too deeply"), std::string::npos);
  EXPECT_NE(fault(parse(std::string(1'000'000, '['), 0)).find("not"), std::string::npos);
  EXPECT_NE(fault(parse(R"({"a":)" + std::string(1'000'000, '['), 0)).find("not valid JSON"),
            std::string::npos);
}

TEST(Header, AnErrorIsShortHoweverLongTheName) {
  const auto header = parse("{\"" + std::string(1 << 20, 'n') + "\":1}", 0);
  EXPECT_LT(fault(header).size(), 400U);
}

TEST(Header, TheEndIsTakenFromTheFirstBytes) {
  EXPECT_EQ(*header_end(length_of(100), 108), 108U);
  EXPECT_EQ(header_end(length_of(100), 107).status().code(), Code::kShortRead);
  EXPECT_EQ(header_end(length_of(100'000'001), std::uint64_t{1} << 40).status().code(),
            Code::kFormat);
  EXPECT_EQ(header_end(length_of(~std::uint64_t{0}), ~std::uint64_t{0}).status().code(),
            Code::kFormat);
  EXPECT_NE(header_end("", 0).status().to_string().find("truncated: it is empty"),
            std::string::npos);
  EXPECT_EQ(header_end("1234567", 7).status().code(), Code::kShortRead);
}

TEST(Header, OtherFormatsAreNamed) {
  using std::string_literals::operator""s;
  const struct {
    std::string bytes;
    const char* words;
  } kFiles[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"},
      {"<!DOCTYPE html><html></html>", "HTML page"},
      {"\n <HTML><body></body></HTML>", "HTML page"},
      {"<?xml version=\"1.0\"?><Error/>", "XML"},
      {"{\"metadata\": {}, \"weight_map\": {}}", "JSON document"},
      {"PK\x03\x04\x00\x00\x08\x08\x00\x00"s, "ZIP archive"},
      {"PK\x03\x04\x00\x00\x00\x00\x00\x00"s, "ZIP archive"},
      {"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20"s, "a pickle"},
      {"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00"s, "a pickle"},
      {"GGUF\x03\x00\x00\x00\x00\x00"s, "GGUF"},
      {"\x1f\x8b\x08\x08\x11\x22\x33\x44\x00"s, "gzip"},
      {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00"s, "gzip"},
      {"\x28\xb5\x2f\xfd\x04\x00\x00\x00\x00"s, "zstd"},
  };
  for (const auto& file : kFiles) {
    const auto header = parse_header(file.bytes, file.bytes.size());
    EXPECT_NE(fault(header).find(file.words), std::string::npos) << fault(header);
    EXPECT_NE(fault(header).find("not a safetensors file"), std::string::npos) << fault(header);
    EXPECT_EQ(header.status().code(), Code::kFormat);
  }
  // Also in a file that is large enough for such a header.
  const std::string gzip = "\x1f\x8b\x08\x00\x00\x00\x00\x00"s + std::string(1 << 20, 'x');
  EXPECT_NE(fault(parse_header(gzip, gzip.size())).find("gzip"), std::string::npos);
}

TEST(Header, TheLongestHas100MB) {
  const auto end_of = [](std::uint64_t length) {
    const std::string first(reinterpret_cast<const char*>(&length), sizeof length);
    return header_end(first, std::uint64_t{1} << 40);
  };
  EXPECT_TRUE(end_of(100'000'000).ok());
  const Result<std::uint64_t> more = end_of(100'000'001);
  EXPECT_EQ(more.status().code(), Code::kFormat);
}

TEST(Header, ALengthThatLooksLikeAnotherFormatIsNoFault) {
  // 0x280 is 80 02, as pickles begin.
  const std::string text = "{" + std::string(0x280 - 2, ' ') + "}";
  EXPECT_EQ(fault(parse(text, 0)), "");
  const std::string bad = "{" + std::string(0x280 - 2, ' ') + "]";
  EXPECT_NE(fault(parse(bad, 0)).find("expected '\"'"), std::string::npos) << fault(parse(bad, 0));
}

TEST(Header, EveryDtypeHasANameAndASize) {
  for (std::size_t i = 0; i < kDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    const std::string text = R"("dtype":")" + std::string(dtype_name(dtype)) +
                             R"(","shape":[8],"data_offsets":[0,)" +
                             std::to_string(dtype_bits(dtype)) + "]";
    const auto header = parse_one(text, dtype_bits(dtype));
    ASSERT_TRUE(header.ok()) << fault(header);
    EXPECT_EQ(header->tensors[0].dtype, dtype);
  }
}

}  // namespace
}  // namespace streamer::safetensors

#include <gtest/gtest.h>

#include "text/json.h"
#include "text/xml.h"

namespace streamer::http {
namespace {

TEST(Xml, ReadsAListOfObjects) {
  const auto root = parse_xml(
      "<?xml version=\"1.0\"?>\n<!-- <x> -->\n<s3:List xmlns=\"http://x/y>z\"><Contents>"
      "<Key>a &amp; b &#x26; &#252;</Key><Size>12</Size></Contents><Contents><Key/></Contents>"
      "<![CDATA[<raw>]]></s3:List>");
  ASSERT_TRUE(root);
  EXPECT_EQ(root->name, "List");
  ASSERT_EQ(root->children.size(), 2u);
  EXPECT_EQ(root->children[0].child_text("Key"), "a & b & \xC3\xBC");
  EXPECT_EQ(root->children[0].child_text("Size"), "12");
  EXPECT_EQ(root->children[1].child_text("Key"), "");
  EXPECT_EQ(root->text, "<raw>");
  EXPECT_EQ(root->child("Nothing"), nullptr);
}

TEST(Xml, RefusesWhatIsNotWhole) {
  for (const char* text : {"", "text", "<a>", "<a><b></a>", "<a", "<a>&nbsp;</a>", "<a>&amp</a>",
                           "<!DOCTYPE a []><a/>", "<a b='", "<", "<>"}) {
    EXPECT_FALSE(parse_xml(text)) << text;
  }
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "<a>";
  for (int i = 0; i < 100; ++i) deep += "</a>";
  EXPECT_FALSE(parse_xml(deep));
}

TEST(Json, ReadsValues) {
  const auto json = parse_json(
      " {\"a\": [1, -2.5e3, true, null], \"b\\n\": \"\\u00fc\\ud83d\\ude00/\\/\", \"n\": \"42\"} ");
  ASSERT_TRUE(json);
  EXPECT_EQ((*json)["a"].items.size(), 4u);
  EXPECT_EQ((*json)["a"].items[1].text, "-2.5e3");
  EXPECT_TRUE((*json)["a"].items[2].boolean);
  EXPECT_EQ(json->string("b\n"), "\xC3\xBC\xF0\x9F\x98\x80//");
  EXPECT_EQ(json->integer("n"), 42);
  EXPECT_FALSE(json->integer("a"));
  EXPECT_EQ((*json)["missing"].type, Json::Type::kNull);
}

TEST(Json, RefusesTooManyValues) {
  std::string text = "[";
  for (int i = 0; i < 999'998; ++i) text += "0,";
  EXPECT_TRUE(parse_json(text + "0]"));
  EXPECT_FALSE(parse_json(text + "0,0]"));
}

TEST(Xml, RefusesTooManyElements) {
  std::string text = "<a>";
  for (int i = 0; i < 999'999; ++i) text += "<b/>";
  EXPECT_TRUE(parse_xml(text + "</a>"));
  EXPECT_FALSE(parse_xml(text + "<b/></a>"));
}

TEST(Json, RefusesWhatIsNotWhole) {
  for (const char* text : {"", "{", "[1,", "{\"a\":}", "\"abc", "[1] 2", "{\"a\" 1}", "tru",
                           "\"\\q\"", "\"\\ud83d\""}) {
    EXPECT_FALSE(parse_json(text)) << text;
  }
  EXPECT_FALSE(parse_json(std::string(1000, '[') + std::string(1000, ']')));
}

}  // namespace
}  // namespace streamer::http

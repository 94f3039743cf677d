#include "base/shown_text.h"

#include <gtest/gtest.h>

#include <random>

#include "streamer/status.h"

namespace streamer {
namespace {

[[maybe_unused]] constexpr const char* kSecret = "SECRET/+sig==";

// Texts with kSecret in a place where secrets stand.
const char* const kHolders[] = {
    "https://h/m?X-Amz-Signature=SECRET/+sig==",
    "https:/h/m?anything=SECRET/+sig==",
    "HTTP://h:80/m?SECRET/+sig==",
    "ftp://me:SECRET/+sig==@h/m",
    "https://me:SECRET/+sig==@h/m",
    "https://SECRET+sig:x@h/m",
    "s3://b/k?X-Amz-Security-Token=SECRET/+sig==&x=1",
    "s3://b/k?sig=SECRET/+sig==",
    "sig=SECRET/+sig==",
    "Signature=SECRET/+sig==",
    "AWS_SESSION_TOKEN=SECRET/+sig==",
    "password='SECRET/+sig=='",
    "?key=SECRET/+sig==",
    "Authorization: Bearer SECRET/+sig==",
    "authorization: Basic SECRET/+sig==",
    "Bearer SECRET/+sig==",
    R"({"access_token": "SECRET/+sig==", "x": 1})",
    R"("SecretAccessKey" : "SECRET/+sig==")",
    "<SessionToken>SECRET/+sig==</SessionToken>",
    "X-Amz-Credential%3DSECRET/+sig==%26x",
    "AccountKey=SECRET/+sig==;EndpointSuffix=core",
    "SharedAccessSignature=SECRET/+sig==",
    "client_secret=SECRET/+sig==&grant_type=x",
    "client_assertion=SECRET/+sig==",
};

// Runs of what may stand around them, the mistakes of those who type included.
std::string noise(std::minstd_rand* random) {
  constexpr const char* kPieces[] = {" ", "'",  "\"", "`",  "(",     ": ", "no such file ", "\n",
                                     "<", "\t", "{",  ", ", "/a/b ", "é ", "\xff ",         "= "};
  std::string text;
  for (unsigned n = (*random)() % 4; n > 0; --n) text += kPieces[(*random)() % std::size(kPieces)];
  return text;
}

TEST(ShownText, SecretsAreMaskedWhereverTheyStand) {
  std::minstd_rand random(7);
  for (int i = 0; i < 20000; ++i) {
    const std::string text =
        noise(&random) + kHolders[random() % std::size(kHolders)] + " " + noise(&random);
    const std::string shown = shown_text(text);
    EXPECT_EQ(shown.find("SECRET"), std::string::npos) << text << " -> " << shown;
    EXPECT_EQ(shown_text(shown), shown) << text;
  }
}

TEST(ShownText, FieldsOfAStatusAreMasked) {
  for (const std::string text : kHolders) {
    const Status status = Status::error(Code::kIo, text)
                              .with_path(text)
                              .with_http(400, text, text, text)
                              .with_identity(text)
                              .with_hint(text);
    const ErrorDetail& detail = status.detail();
    for (const std::string& field :
         {detail.message, detail.path, detail.server_code, detail.server_message, detail.request_id,
          detail.identity, detail.hint, status.to_string()}) {
      EXPECT_EQ(field.find("SECRET"), std::string::npos) << field;
    }
  }
}

TEST(ShownText, WhatIsNoSecretStays) {
  for (const char* text :
       {"s3://bucket/a@b/model-00001-of-00002.safetensors", "hf://org/repo@main/x", "C:/a/b",
        "tensor 'model.embed_tokens.weight': its shape", "set RUNAI_STREAMER_ALLOW_PLAIN_TOKENS=1",
        "the token has expired: renew it", "Basic access is refused", "http://127.0.0.1:9000/b/k",
        "https://host/a:b@c/d", "s3://b/key=1/part", "http://[::1]:80/x", "//server/share/x",
        "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS=1 for a public bucket", "{\"key\": \"m/a\"}",
        "<Code>NoSuchKey</Code>", "HTTP 403 AccessDenied", "the bearer of news"}) {
    EXPECT_EQ(shown_text(text), text);
  }
  EXPECT_EQ(mask_secrets("https://me:pw@h:1/m?x=1"), "https://h:1/m?...");
}

TEST(ShownText, ControlsAreEscaped) {
  EXPECT_EQ(escape_controls("a\nb\r\t\x1b[2J\x7f"), "a\\u000ab\\u000d\\u0009\\u001b[2J\\u007f");
  EXPECT_EQ(escape_controls("\xc2\x9b \xe2\x80\xa8 \xe2\x80\xae"), "\\u009b \\u2028 \\u202e");
  EXPECT_EQ(escape_controls("ünï \xf0\x9f\x98\x80 \xff\xc3"), "ünï \xf0\x9f\x98\x80 \xff\xc3");
  const std::string evil("denied\n[INFO] root\x1b[2J\0x", 22);
  const std::string text = Status::error(Code::kIo, evil)
                               .with_path("s3://b/" + evil)
                               .with_http(403, evil, evil, evil)
                               .with_identity(evil)
                               .with_hint(evil)
                               .to_string();
  for (const char c : text) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << text;
}

TEST(ShownText, TextsOfServersAreCut) {
  const std::string text(60'000, 'x');
  const Status status = Status::error(Code::kIo, "no").with_http(400, text, text, text);
  EXPECT_EQ(status.detail().server_message, std::string(512, 'x') + "...");
  EXPECT_LT(status.to_string().size(), 1000u);
  EXPECT_EQ(cut_text("aé", 2), "a...");
  EXPECT_EQ(cut_text("aé", 3), "aé");
}

}  // namespace
}  // namespace streamer

#include <gtest/gtest.h>

#include "source/http/hub/hub.h"
#include "source/http/web/netrc.h"
#include "source/http/web/web_list.h"

namespace streamer::http {
namespace {

std::vector<std::string> paths_of(const ListPage& page) {
  std::vector<std::string> paths;
  for (const ListPage::Entry& entry : page.entries) paths.push_back(entry.path);
  return paths;
}

Response page_of(std::string body, std::string type) {
  Response response;
  response.body = std::move(body);
  response.headers.push_back({"content-type", std::move(type)});
  return response;
}

TEST(HubPath, Parts) {
  const auto plain = parse_hub_path("hf://org/repo/sub/model.safetensors");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->type, "models");
  EXPECT_EQ(plain->repo, "org/repo");
  EXPECT_EQ(plain->revision, "main");
  EXPECT_EQ(plain->file, "sub/model.safetensors");
  const auto pinned = parse_hub_path("HF://org/repo@v1.0/model.safetensors");
  ASSERT_TRUE(pinned.ok());
  EXPECT_EQ(pinned->revision, "v1.0");
  const auto pull = parse_hub_path("hf://org/repo@refs/pr/7/x");
  ASSERT_TRUE(pull.ok());
  EXPECT_EQ(pull->revision, "refs/pr/7");
  EXPECT_EQ(pull->file, "x");
  const auto branch = parse_hub_path("hf://org/repo@a%2Fb/x");
  ASSERT_TRUE(branch.ok());
  EXPECT_EQ(branch->revision, "a/b");
  EXPECT_EQ(hub_file_url("https://h", *branch), "https://h/org/repo/resolve/a%2Fb/x");
  const auto data = parse_hub_path("hf://datasets/org/set/x y");
  ASSERT_TRUE(data.ok());
  EXPECT_EQ(hub_file_url("https://h", *data), "https://h/datasets/org/set/resolve/main/x%20y");
}

TEST(HubPath, Nonsense) {
  for (const char* path :
       {"hf://", "hf://org", "hf://org/", "hf://org/repo@", "hf:///repo/x", "hf://org/../x",
        "hf://org/repo/a/../../b", "hf://org/repo@../x", "https://org/repo/x"}) {
    EXPECT_FALSE(parse_hub_path(path).ok()) << path;
  }
}

TEST(Netrc, FindsTheHost) {
  const std::string text =
      "# a comment\n"
      "machine a.example login ann password \"p w\\\"\"\n"
      "macdef init\nmachine b.example login no password no\n\n"
      "machine B.example\n\tlogin bob\n\taccount x password secret#1\n"
      "default login anonymous password guest\n";
  const auto a = find_in_netrc(text, "a.example");
  ASSERT_TRUE(a.has_value());
  EXPECT_EQ(a->login, "ann");
  EXPECT_EQ(a->password, "p w\"");
  const auto b = find_in_netrc(text, "b.example");
  ASSERT_TRUE(b.has_value());
  EXPECT_EQ(b->login, "bob");
  EXPECT_EQ(b->password, "secret#1");
  EXPECT_EQ(find_in_netrc(text, "c.example")->login, "anonymous");
  EXPECT_FALSE(find_in_netrc("machine a login x password y", "b").has_value());
  EXPECT_FALSE(find_in_netrc("", "b").has_value());
  EXPECT_FALSE(find_in_netrc("machine", "b").has_value());
}

TEST(CheckpointIndex, NamesEachShardOnce) {
  const auto page = read_checkpoint_index(
      "https://h/m/model.safetensors.index.json?x=/y",
      R"({"metadata":{},"weight_map":{"a":"2 of 2.safetensors","b":"1.safetensors","c":"1.safetensors"}})");
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(paths_of(*page), (std::vector<std::string>{"https://h/m/1.safetensors?x=/y",
                                                       "https://h/m/2%20of%202.safetensors?x=/y"}));
}

TEST(CheckpointIndex, RefusesWhatLeavesTheFolder) {
  for (const char* name :
       {"../x", "a/../../x", "/x", "https://evil/x", "%2e%2e/x", "", "a\\\\..\\\\x"}) {
    const std::string text = std::string(R"({"weight_map":{"a":")") + name + "\"}}";
    EXPECT_FALSE(read_checkpoint_index("https://h/m/i.json", text).ok()) << name;
  }
  EXPECT_FALSE(read_checkpoint_index("https://h/m/i.json", "{}").ok());
  EXPECT_FALSE(read_checkpoint_index("https://h/m/i.json", "<html>").ok());
}

TEST(FolderPage, LinksThatLeadBelow) {
  std::vector<std::string> folders;
  const auto page = read_folder_page(
      "https://h/m/",
      page_of(R"(<a href="../">up</a><A HREF='a.safetensors'>a</A><a href="sub/">s</a>
                 <a href="?C=M;O=A">sort</a><a href="/icons/x.png">i</a><a href="https://e/x">e</a>
                 <a href="./b&amp;c.json">b</a><a href="a.safetensors">again</a><a href="#top">t</a>
                 <a href="%2e%2e/x">u</a><a href="mailto:x@e">m</a><a href=unquoted>)",
              "text/html; charset=utf-8"),
      &folders);
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(paths_of(*page),
            (std::vector<std::string>{"https://h/m/a.safetensors", "https://h/m/b&c.json"}));
  EXPECT_EQ(folders, std::vector<std::string>{"https://h/m/sub/"});
}

TEST(FolderPage, JsonOfNginx) {
  std::vector<std::string> folders;
  const auto page = read_folder_page(
      "https://h/m/",
      page_of(R"([{"name":"sub","type":"directory"},{"name":"a b","type":"file","size":7},
                  {"name":"..","type":"directory"}])",
              "application/json"),
      &folders);
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(paths_of(*page), std::vector<std::string>{"https://h/m/a%20b"});
  EXPECT_EQ(page->entries[0].size, 7u);
  EXPECT_EQ(folders, std::vector<std::string>{"https://h/m/sub/"});
}

TEST(FolderPage, AnythingElseIsNoList) {
  std::vector<std::string> folders;
  EXPECT_EQ(
      read_folder_page("https://h/m/", page_of("hello", "text/plain"), &folders).status().code(),
      Code::kUnsupported);
}

TEST(Paths, LoseTheirSecretsInErrors) {
  const auto shown = [](const char* path) {
    return Status::error(Code::kIo, "x").with_path(path).detail().path;
  };
  EXPECT_EQ(shown("https://h/a?X-Amz-Signature=secret"), "https://h/a?...");
  EXPECT_EQ(shown("HTTP://ann:secret@h/a"), "HTTP://h/a");
  EXPECT_EQ(shown("https://h/a@b"), "https://h/a@b");
  EXPECT_EQ(shown("s3://b/what?not"), "s3://b/what?not");
  EXPECT_EQ(shown("/file?x"), "/file?x");
}

}  // namespace
}  // namespace streamer::http

#include <gtest/gtest.h>

#include <map>

#include "source/http/hub/hub.h"
#include "source/http/protocol.h"
#include "source/http/redirects.h"
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

TEST(HubPath, SplitsIntoParts) {
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

TEST(HubPath, RefusesOtherPaths) {
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

TEST(CheckpointIndex, RefusesWhatLeavesTheDirectory) {
  for (const char* name :
       {"../x", "a/../../x", "/x", "https://evil/x", "%2e%2e/x", "", "a\\\\..\\\\x"}) {
    const std::string text = std::string(R"({"weight_map":{"a":")") + name + "\"}}";
    EXPECT_FALSE(read_checkpoint_index("https://h/m/i.json", text).ok()) << name;
  }
  EXPECT_FALSE(read_checkpoint_index("https://h/m/i.json", "{}").ok());
  EXPECT_FALSE(read_checkpoint_index("https://h/m/i.json", "<html>").ok());
}

TEST(DirectoryPage, LinksThatLeadBelow) {
  std::vector<std::string> directories;
  const auto page = read_directory_page(
      "https://h/m/",
      page_of(R"(<a href="../">up</a><A HREF='a.safetensors'>a</A><a href="sub/">s</a>
                 <a href="?C=M;O=A">sort</a><a href="/icons/x.png">i</a><a href="https://e/x">e</a>
                 <a href="./b&amp;c.json">b</a><a href="a.safetensors">again</a><a href="#top">t</a>
                 <a href="%2e%2e/x">u</a><a href="mailto:x@e">m</a><a href=unquoted>)",
              "text/html; charset=utf-8"),
      &directories);
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(paths_of(*page),
            (std::vector<std::string>{"https://h/m/a.safetensors", "https://h/m/b&c.json"}));
  EXPECT_EQ(directories, std::vector<std::string>{"https://h/m/sub/"});
}

TEST(DirectoryPage, ReadsTheJsonOfNginx) {
  std::vector<std::string> directories;
  const auto page = read_directory_page(
      "https://h/m/",
      page_of(R"([{"name":"sub","type":"directory"},{"name":"a b","type":"file","size":7},
                  {"name":"..","type":"directory"}])",
              "application/json"),
      &directories);
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(paths_of(*page), std::vector<std::string>{"https://h/m/a%20b"});
  EXPECT_EQ(page->entries[0].size, 7u);
  EXPECT_EQ(directories, std::vector<std::string>{"https://h/m/sub/"});
}

// Whose cost were to grow with the square would not end in the time that a test has.
TEST(DirectoryPage, EntitiesCostNoMoreThanTheirLength) {
  std::string link;
  for (int i = 0; i < 3'000'000; ++i) link += "&amp;";
  std::vector<std::string> directories;
  const auto page = read_directory_page(
      "https://h/d/", page_of("<a href=\"" + link + "\">", "text/html"), &directories);
  ASSERT_TRUE(page.ok());
  ASSERT_EQ(page->entries.size(), 1u);
  EXPECT_EQ(page->entries[0].path, "https://h/d/" + std::string(3'000'000, '&'));
}

TEST(Redirects, ReferencesAreResolvedAsRfc3986Says) {
  const std::map<std::string, std::string> kCases = {
      {"https://b/c", "https://b/c"},
      {"/m?from=https://x/y", "https://h/m?from=https://x/y"},
      {"m?from=https://x", "https://h/a/m?from=https://x"},
      {"?q=2", "https://h/a/b?q=2"},
      {"//b:81/c", "https://b:81/c"},
      {"../c", "https://h/c"},
      {"./c/../d/.", "https://h/a/d/"},
      {"../../../c", "https://h/c"},
      {"/x/../y#part", "https://h/y"},
  };
  for (const auto& [link, target] : kCases) {
    Redirects redirects;
    const std::string asked = "https://h/a/b?q=1";
    Response response;
    response.url = asked;
    response.status = 302;
    response.headers.push_back({"location", link});
    ServerError error;
    EXPECT_TRUE(redirects.handle(asked, response, &error));
    EXPECT_EQ(error.decision, RetryDecision::kFollow) << link;
    EXPECT_EQ(redirects.request(asked, nullptr).url, target) << link;
  }
}

TEST(Redirects, ThoseToTheInsideAreFollowedOnTheirHostOnly) {
  for (const char* target :
       {"http://169.254.169.254/latest", "http://127.0.0.1/", "http://[::1]/", "http://[fe80::1]/x",
        "http://localhost/x", "http://127.0.0.3:9/x", "ftp://b/c"}) {
    for (const char* asked : {"http://h/a", "http://127.0.0.3/a"}) {
      Redirects redirects;
      Response response;
      response.url = asked;
      response.status = 302;
      response.headers.push_back({"location", target});
      ServerError error;
      EXPECT_TRUE(redirects.handle(asked, response, &error));
      const bool same = std::string(asked) == "http://127.0.0.3/a" &&
                        std::string(target).starts_with("http://127.0.0.3");
      EXPECT_EQ(error.decision == RetryDecision::kFollow, same) << asked << " " << target;
    }
  }
}

TEST(DirectoryPage, ALoginPageIsNoListAndAnEmptyDirectoryIs) {
  std::vector<std::string> directories;
  const Response login =
      page_of("<title>Sign in</title><FORM action='/login'><input></FORM>", "text/html");
  EXPECT_EQ(read_directory_page("https://h/m/", login, &directories).status().code(), Code::kIo);
  const Response empty =
      page_of("<title>Index</title><ul><a href='../'>Parent</a></ul>", "text/html");
  EXPECT_TRUE(read_directory_page("https://h/m/", empty, &directories).ok());
}

TEST(DirectoryPage, AnythingElseIsNoList) {
  std::vector<std::string> directories;
  EXPECT_EQ(read_directory_page("https://h/m/", page_of("hello", "text/plain"), &directories)
                .status()
                .code(),
            Code::kUnsupported);
}

TEST(DirectoryPage, TheQueryIsForEverythingBelow) {
  for (const char* query : {"?sig=abcd", "?/", "?a/b/c/"}) {
    std::vector<std::string> directories;
    const auto page = read_directory_page(
        std::string("https://h/m/") + query,
        page_of(R"(<a href="a.json">a</a><a href="sub/">s</a>)", "text/html"), &directories);
    ASSERT_TRUE(page.ok());
    EXPECT_EQ(paths_of(*page), std::vector<std::string>{std::string("https://h/m/a.json") + query});
    EXPECT_EQ(directories, std::vector<std::string>{std::string("https://h/m/sub/") + query});
  }
}

// Lists `url` from a server that responds to every request with `response`; returns the URLs that
// were asked for.
std::vector<std::string> walk(const std::string& url, const Response& response, bool recursive,
                              std::size_t most, std::size_t* entries) {
  const Settings settings;
  const CredentialsProvider none;
  const auto web = make_web({settings, none});
  const auto directory = (*web)->locate(url, /*directory=*/true);
  std::vector<std::string> asked;
  std::string next;
  do {
    const auto request = (*web)->make_list(*directory, recursive, next, nullptr);
    EXPECT_TRUE(request.ok());
    asked.push_back(request->url);
    const auto page = (*web)->read_list(*directory, recursive, next, response);
    EXPECT_TRUE(page.ok()) << page.status().to_string();
    *entries += page->entries.size();
    next = page->next;
  } while (!next.empty() && asked.size() < most);
  return asked;
}

// Queries that are shorter and longer than what lies below, and that look like a part of a path.
TEST(WebList, DirectoriesWithAQueryAreWalked) {
  const Response one = page_of(R"(<a href="s/">s</a><a href="a.json">a</a>)", "text/html");
  for (const std::string& query : {std::string(), std::string("?abcd"), std::string("?a/b/c"),
                                   std::string("?q ") + std::string(1 << 17, 'A')}) {
    std::size_t entries = 0;
    const auto asked = walk("https://h/d/" + query, one, true, 100, &entries);
    EXPECT_EQ(asked.size(), 17u);  // the directory, and 16 levels below it
    EXPECT_EQ(entries, 17u);
    for (const std::string& url : asked) {
      EXPECT_TRUE(url.starts_with("https://h/d/"));
      EXPECT_EQ(url.find('?') == std::string::npos, query.empty());
    }
    EXPECT_EQ(asked[2].substr(0, asked[2].find('?')), "https://h/d/s/s/");
    EXPECT_EQ(walk("https://h/d/" + query, one, false, 100, &entries).size(), 1u);
  }
}

TEST(WebList, TooManyDirectoriesAreAnError) {
  const Settings settings{std::map<std::string, std::string>()};
  const CredentialsProvider nobody;
  Result<std::unique_ptr<Protocol>> made = make_web({settings, nobody});
  ASSERT_TRUE(made.ok());
  const std::unique_ptr<Protocol>& web = *made;
  const Location directory = *web->locate("https://h/m/", /*directory=*/true);
  std::string html;
  for (int i = 0; i < 10'001; ++i) html += "<a href=\"" + std::to_string(i) + "/\">x</a>";
  const Response response = page_of(html, "text/html");
  EXPECT_EQ(web->read_list(directory, true, "", response).status().code(), Code::kUnsupported);
  EXPECT_TRUE(web->read_list(directory, false, "", response).ok());
}

TEST(WebList, DirectoriesAreReadOneAfterTheOther) {
  const Response three = page_of(R"([{"name":"a","type":"directory"},{"name":"b 1",
      "type":"directory"},{"name":"c","type":"directory"},{"name":"f","size":1}])",
                                 "application/json");
  std::size_t entries = 0;
  const auto asked = walk("https://h/d?x", three, true, 13, &entries);
  EXPECT_EQ(asked,
            (std::vector<std::string>{
                "https://h/d/?x", "https://h/d/a/?x", "https://h/d/b%201/?x", "https://h/d/c/?x",
                "https://h/d/a/a/?x", "https://h/d/a/b%201/?x", "https://h/d/a/c/?x",
                "https://h/d/b%201/a/?x", "https://h/d/b%201/b%201/?x", "https://h/d/b%201/c/?x",
                "https://h/d/c/a/?x", "https://h/d/c/b%201/?x", "https://h/d/c/c/?x"}));
}

// The lines of the pages to come are ours.
TEST(WebList, LinksWithLineBreaksNameNoOtherDirectory) {
  const Response page =
      page_of("<a href=\"a\n1 evil/\">s</a><a href=\"b\r\nx\">x</a>", "text/html");
  std::size_t entries = 0;
  for (const std::string& url : walk("https://h/d/", page, true, 100, &entries)) {
    EXPECT_TRUE(url.starts_with("https://h/d/")) << url;
    EXPECT_EQ(url.find_first_of("\r\n "), std::string::npos) << url;
  }
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

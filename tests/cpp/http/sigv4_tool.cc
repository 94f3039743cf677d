// Reads requests from standard input, one JSON object per line, and writes the Authorization header
// of each: method, url, headers (an object), access_key, secret_key, token, region, service, time
// (seconds since the epoch), payload_hash.
#include <cstdlib>
#include <iostream>
#include <string>

#include "source/http/s3/sigv4.h"
#include "text/json.h"

using namespace streamer::http;

int main() {
  SigV4Signer signer;
  for (std::string line; std::getline(std::cin, line);) {
    const auto json = parse_json(line);
    if (!json) return 1;
    Request request{.method = json->string("method"), .url = json->string("url")};
    const Json& headers = (*json)["headers"];
    for (std::size_t i = 0; i < headers.keys.size(); ++i) {
      request.set(headers.keys[i], headers.items[i].text);
    }
    const auto url = parse_url(request.url);
    if (!url.ok()) return 1;
    const SigV4Scope scope{.access_key = json->string("access_key"),
                           .secret_key = json->string("secret_key"),
                           .token = json->string("token"),
                           .region = json->string("region"),
                           .service = json->string("service")};
    signer.sign(&request, url.value(), scope, json->integer("time").value_or(0),
                json->string("payload_hash"));
    for (const Header& header : request.headers) {
      if (header.name == "Authorization") std::cout << header.value << "\n";
    }
  }
  return EXIT_SUCCESS;
}

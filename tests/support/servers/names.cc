// To be preloaded: the name NAME has the addresses NAME_ADDRESSES (IPv4, with commas between), in
// this order. Appends a line to NAME_LOG whenever it is asked for.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

namespace {

using Resolver = int (*)(const char*, const char*, const addrinfo*, addrinfo**);

// Made as glibc makes it: the address follows, and freeaddrinfo() frees both at once.
addrinfo* make(const std::string& address) {
  void* memory = std::calloc(1, sizeof(addrinfo) + sizeof(sockaddr_in));
  auto* const entry = static_cast<addrinfo*>(memory);
  auto* const to = reinterpret_cast<sockaddr_in*>(entry + 1);
  to->sin_family = AF_INET;
  inet_pton(AF_INET, address.c_str(), &to->sin_addr);
  entry->ai_family = AF_INET;
  entry->ai_socktype = SOCK_STREAM;
  entry->ai_protocol = IPPROTO_TCP;
  entry->ai_addrlen = sizeof *to;
  entry->ai_addr = reinterpret_cast<sockaddr*>(to);
  return entry;
}

}  // namespace

extern "C" int getaddrinfo(const char* node, const char* service, const addrinfo* hints,
                           addrinfo** out) {
  const char* const name = std::getenv("NAME");
  if (node == nullptr || name == nullptr || std::strcmp(node, name) != 0) {
    static const auto next = reinterpret_cast<Resolver>(dlsym(RTLD_NEXT, "getaddrinfo"));
    return next(node, service, hints, out);
  }
  if (const char* const log = std::getenv("NAME_LOG")) {
    const int fd = open(log, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (fd < 0 || write(fd, "asked\n", 6) != 6) return EAI_SYSTEM;
    close(fd);
  }
  std::istringstream addresses(std::getenv("NAME_ADDRESSES"));
  addrinfo** end = out;
  for (std::string address; std::getline(addresses, address, ',');) {
    addrinfo* const entry = make(address);
    if (service != nullptr) {
      reinterpret_cast<sockaddr_in*>(entry->ai_addr)->sin_port =
          htons(static_cast<std::uint16_t>(std::atoi(service)));
    }
    *end = entry;
    end = &entry->ai_next;
  }
  return 0;
}

#include "source/http/client/origin.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>

#include "base/text.h"
#include "text/encoding.h"

namespace streamer::http {
namespace {

constexpr std::string_view kSecondary = "-secondary";

// The domains of blob endpoints in the clouds of Azure.
struct AzureDomain {
  std::string_view name;
  bool zones;  // a DNS zone stands between the account and the domain
};
constexpr AzureDomain kAzureDomains[] = {
    {"blob.core.windows.net", false},
    {"blob.core.chinacloudapi.cn", false},
    {"blob.core.usgovcloudapi.net", false},
    {"blob.storage.azure.net", true},
};

// The services that give containers of ECS and EKS their credentials.
constexpr const char* kAwsContainerServices[] = {"169.254.170.2", "169.254.170.23",
                                                 "[fd00:ec2::23]"};

struct Address {
  int family = AF_UNSPEC;
  std::array<unsigned char, 16> bytes{};
  bool operator==(const Address&) const = default;
};

// Of four decimal numbers, or of IPv6 in brackets. Other spellings (octal, hexadecimal, fewer
// numbers, zones) are not addresses here: no secret is sent to them.
std::optional<Address> parse_address(std::string_view host) {
  const bool brackets = host.starts_with('[') && host.ends_with(']');
  if (brackets) host = host.substr(1, host.size() - 2);
  Address address{.family = brackets ? AF_INET6 : AF_INET};
  const std::string text(host);
  if (inet_pton(address.family, text.c_str(), address.bytes.data()) != 1) return std::nullopt;
  return address;
}

// The same of every spelling that the functions of the system take: 127.1, octal and hexadecimal
// numbers, one number, zones.
std::optional<Address> spelled_address(std::string host) {
  if (host.starts_with('[')) {
    host = host.substr(0, host.find_first_of("%]")) + "]";
    return parse_address(host);
  }
  in_addr number{};
  if (inet_aton(host.c_str(), &number) != 1) return std::nullopt;
  Address address{.family = AF_INET};
  std::memcpy(address.bytes.data(), &number, sizeof number);
  return address;
}

// Of this machine or link; 0.0.0.0/8 is this machine, too.
bool is_inside_v4(const unsigned char* bytes) {
  return bytes[0] == 127 || bytes[0] == 0 || (bytes[0] == 169 && bytes[1] == 254);
}

bool only(std::string_view text, std::string_view letters) {
  return !text.empty() && text.find_first_not_of(letters) == std::string_view::npos;
}

bool is_account_name(std::string_view text) {
  if (text.ends_with(kSecondary)) text.remove_suffix(kSecondary.size());
  return text.size() >= 3 && text.size() <= 24 &&
         only(text, "abcdefghijklmnopqrstuvwxyz0123456789");
}

bool is_zone(std::string_view text) {
  return text.size() >= 2 && text.size() <= 4 && text.front() == 'z' &&
         only(text.substr(1), "0123456789");
}

// The part before ".DOMAIN".
std::optional<std::string_view> before_domain(std::string_view host, std::string_view domain) {
  if (domain.empty() || host.size() <= domain.size() + 1 || !host.ends_with(domain)) return {};
  host.remove_suffix(domain.size());
  if (host.back() != '.') return {};
  host.remove_suffix(1);
  return host;
}

bool same_origin(const Url& a, const Url& b) {
  return a.scheme == b.scheme && a.host == b.host && a.port == b.port;
}

// The origin of the account's primary host.
Url primary_of(Url url) {
  const std::size_t end = std::min(url.host.find('.'), url.host.size());
  if (std::string_view(url.host).substr(0, end).ends_with(kSecondary)) {
    url.host.erase(end - kSecondary.size(), kSecondary.size());
  }
  return url;
}

bool is_aws_container_service(const Url& url) {
  const auto address = parse_address(url.host);
  return address && std::any_of(std::begin(kAwsContainerServices), std::end(kAwsContainerServices),
                                [&](const char* text) { return parse_address(text) == address; });
}

bool has_parameter(std::string_view url, std::initializer_list<std::string_view> names) {
  url = url.substr(0, url.find('#'));
  const std::size_t mark = url.find('?');
  if (mark == std::string_view::npos) return false;
  for (const auto& [written, value] : split_pairs(url.substr(mark + 1), '&')) {
    const std::string name = lower(percent_decode(written));
    if (!value.empty() && std::find(names.begin(), names.end(), name) != names.end()) return true;
  }
  return false;
}

bool holds_replayable_secret(const Request& request) {
  if (request.secret_body || has_parameter(request.url, {"sig"})) return true;
  return std::any_of(request.headers.begin(), request.headers.end(), [](const Header& header) {
    return lower(header.name) == "authorization" && !header.value.empty() &&
           !header.value.starts_with("AWS4-HMAC-SHA256 ") &&
           !header.value.starts_with("SharedKey ");
  });
}

}  // namespace

bool same_origin(const std::string& a, const std::string& b) {
  const Result<Url> first = parse_url(a);
  const Result<Url> second = parse_url(b);
  return first.ok() && second.ok() && same_origin(*first, *second);
}

bool is_azure_account(const Url& url, std::string_view domain) {
  if (url.scheme != "https" || url.port != 0) return false;
  for (const AzureDomain& known : kAzureDomains) {
    auto account = before_domain(url.host, known.name);
    if (!account) continue;
    if (known.zones) {
      const std::size_t dot = account->rfind('.');
      if (dot != std::string_view::npos && is_zone(account->substr(dot + 1))) {
        account = account->substr(0, dot);
      }
    }
    return is_account_name(*account);
  }
  const auto account = before_domain(url.host, domain);
  return account && is_account_name(*account);
}

bool may_receive(Secret secret, const Url& target, const OwnHosts& own) {
  const bool exact = own.endpoint && same_origin(target, *own.endpoint);
  switch (secret) {
    case Secret::kOneOrigin: return exact;
    case Secret::kAzureAccount:
      return exact || (own.endpoint && is_azure_account(target, own.azure_domain) &&
                       same_origin(primary_of(target), primary_of(*own.endpoint)));
    case Secret::kAzureIdentity: return exact || is_azure_account(target, own.azure_domain);
    case Secret::kAwsContainer:
      return target.scheme == "https" || is_loopback(target) || is_aws_container_service(target);
  }
  return false;
}

bool is_loopback(const Url& url) {
  if (url.host == "localhost") return true;
  const auto address = parse_address(url.host);
  if (!address) return false;
  return address->family == AF_INET ? address->bytes[0] == 127 : address == parse_address("[::1]");
}

bool is_inside(const Url& url) {
  std::string_view host = url.host;
  if (host.ends_with('.')) host.remove_suffix(1);
  if (host == "localhost" || host.ends_with(".localhost")) return true;
  const auto address = spelled_address(std::string(host));
  if (!address) return false;
  const auto& bytes = address->bytes;
  if (address->family == AF_INET) return is_inside_v4(bytes.data());
  const auto begins = [&](std::initializer_list<int> front) {
    return std::equal(front.begin(), front.end(), bytes.begin());
  };
  // As IPv4 in IPv6: mapped, compatible (with :: and ::1 among them), translated.
  const bool first_zero =
      std::all_of(bytes.begin(), bytes.begin() + 10, [](int b) { return b == 0; });
  const bool mapped = bytes[10] == 0xFF && bytes[11] == 0xFF;
  const bool compatible = bytes[10] == 0 && bytes[11] == 0;
  if (first_zero && (mapped || compatible)) return is_inside_v4(bytes.data() + 12);
  if (begins({0x00, 0x64, 0xFF, 0x9B})) return is_inside_v4(bytes.data() + 12);
  // Link-local, and the services of EC2 and EKS for their own machine.
  return (bytes[0] == 0xFE && (bytes[1] & 0xC0) == 0x80) || begins({0xFD, 0x00, 0x0E, 0xC2});
}

bool is_host_label(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789";
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
  return text.size() <= 63 && only(text, kLetters) && !only(text, kDigits) && text.front() != '-' &&
         text.back() != '-';
}

bool is_presigned(const std::string& url) {
  return has_parameter(url, {"x-amz-signature", "x-goog-signature", "signature", "sig"});
}

Status check_plaintext(const Request& request) {
  if (request.url.starts_with("https://") || !holds_replayable_secret(request)) return {};
  const Result<Url> url = parse_url(request.url);
  if (!url.ok()) return url.status();
  if (url->scheme == "https" || is_loopback(*url)) return {};
  if (!request.proxy && is_aws_container_service(*url)) return {};
  return Status::error(Code::kInvalid, "tokens and passwords are not sent over plain http")
      .with_hint(
          "Use an https endpoint, or set RUNAI_STREAMER_ALLOW_PLAIN_TOKENS=1 if everyone on the "
          "network may read them");
}

}  // namespace streamer::http

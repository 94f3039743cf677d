// Azure Blob Storage.
#include <algorithm>
#include <ctime>
#include <optional>

#include "base/text.h"
#include "source/http/auth/oauth.h"
#include "source/http/auth/server_clock.h"
#include "source/http/azure/azure_account.h"
#include "source/http/azure/shared_key.h"
#include "source/http/protocol.h"
#include "text/encoding.h"
#include "text/url.h"
#include "text/xml.h"

namespace streamer::http {
namespace {

constexpr const char* kApiVersion = "2021-08-06";
constexpr const char* kRole =
    "The identity needs the role 'Storage Blob Data Reader', or a signature with the permissions r "
    "and l; a firewall of the account has the same effect";
// Names of Credentials::values, besides kToken.
constexpr const char* kAccountKey = "account_key";  // base64, with kAccountName
constexpr const char* kAccountName = "account_name";
constexpr const char* kSasToken = "sas_token";

// clang-format off
constexpr KnownError kKnown[] = {
    {"AuthenticationFailed", Code::kCredentials, RetryDecision::kRefresh, "", "The key, token or signature is wrong or has expired, or this machine's clock is wrong"},
    {"AuthorizationFailure", Code::kPermission, RetryDecision::kFail, "", kRole},
    {"AuthorizationPermissionMismatch", Code::kPermission, RetryDecision::kFail, "", kRole},
    {"BlobArchived", Code::kIo, RetryDecision::kFail, "", "The blob is in the archive tier; rehydrate it first"},
    {"BlobBeingRehydrated", Code::kIo, RetryDecision::kFail, "", "The blob is in the archive tier; rehydrate it first"},
    {"PublicAccessNotPermitted", Code::kPermission, RetryDecision::kFail, "", "The account does not permit anonymous access"},
    {"OperationTimedOut", Code::kTimeout, RetryDecision::kRetry, "", ""},
};
// clang-format on

constexpr const char* kHadoopExample = "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/BLOB";

class Azure : public SingleIdentity {
 public:
  Azure(const ProtocolContext& context, AzureAccount account, bool anonymous)
      : SingleIdentity(SourceKind::kAzure, context.provider, anonymous,
                       [this, settings = context.settings](const std::string& container,
                                                           Connection& connection) {
                         return resolve(settings, container, connection);
                       }),
        account_(std::move(account)) {}

  Result<Location> locate(const std::string& path, bool directory) const override;
  Result<Request> make_read(const Location& location, std::optional<ByteRange> range,
                            const Version& version, const CredentialsRef& credentials) override {
    Request request{.url = address(location.container) + "/" + percent_encode(location.key, "/")};
    if (range) request.set("Range", range->header());
    if (version.by_id) {
      request.url += "?versionid=" + percent_encode(version.id);
    } else if (!version.validator.empty()) {
      request.set("If-Match", version.validator);
    }
    if (Status status = authorize(&request, credentials); !status.ok()) return status;
    return request;
  }

  Endpoint endpoint(const Location& location, const Credentials*) const override {
    const std::size_t slash = location.container.find('/');
    if (slash != std::string::npos) {
      return {.url = "https://" + location.container.substr(0, slash), .from = "of the path"};
    }
    return {.url = account_.endpoint, .from = account_.endpoint_from};
  }

  Result<Request> make_list(const Location& directory, bool recursive, const std::string& next,
                            const CredentialsRef& credentials) override {
    Request request{.url = address(directory.container) + "?restype=container&comp=list"};
    if (!directory.key.empty()) request.url += "&prefix=" + percent_encode(directory.key);
    if (!recursive) request.url += "&delimiter=%2F";
    if (!next.empty()) request.url += "&marker=" + percent_encode(next);
    if (Status status = authorize(&request, credentials); !status.ok()) return status;
    return request;
  }

  Result<ListPage> read_list(const Location&, bool, const std::string&,
                             const Response& response) override;
  Version version_of(const Response& response) const override {
    return {std::string(response.header("etag")), std::string(response.header("x-ms-version-id")),
            false};
  }
  // The service keeps the digest that the uploader gave. That of a whole blob has another name in
  // responses to ranges.
  std::string md5_of(const Response& response) const override {
    std::string_view text = response.header("x-ms-blob-content-md5");
    if (text.empty() && response.status == 200) text = response.header("content-md5");
    const auto digest = base64_decode(text);
    return digest && digest->size() == 16 ? *digest : std::string();
  }
  ServerError read_error(const Location& location, const Response& response) override;

 private:
  // The container's URL. Locations of https paths name their host: "HOST/CONTAINER".
  std::string address(const std::string& container) const {
    const std::size_t slash = container.find('/');
    if (slash == std::string::npos) return account_.endpoint + "/" + percent_encode(container);
    return "https://" + container.substr(0, slash) + "/" +
           percent_encode(container.substr(slash + 1));
  }
  Result<Credentials> resolve(const Settings& settings, const std::string& container,
                              Connection& connection) const;
  Status authorize(Request* request, const CredentialsRef& credentials) const;
  // Explains a refused signature by its own fields.
  void explain_signature(ServerError* error) const;

  const AzureAccount account_;
};

Result<Location> Azure::locate(const std::string& path, bool directory) const {
  std::size_t start = after_scheme(path);
  std::string host;
  if (lower(path).starts_with("https")) {
    const std::size_t end = std::min(path.find('/', start), path.size());
    const std::optional<Url> url = azure_host_of(path);
    if (!url || !account_.is_azure(*url)) {
      return Status::error(Code::kInvalid, "not a host of Azure Blob Storage").with_path(path);
    }
    host = url->authority() + "/";
    start = std::min(end + 1, path.size());
  } else if (const std::size_t at = path.find('@', start);
             at < path.find('/', start) && lower(path.substr(0, 2)) != "az") {
    // abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/BLOB, as Hadoop writes it: the endpoint of
    // blobs has another name.
    std::string account = path.substr(at + 1, std::min(path.find('/', at), path.size()) - at - 1);
    if (const std::size_t dfs = account.find(".dfs."); dfs != std::string::npos) {
      account.replace(dfs, 5, ".blob.");
    }
    const std::optional<Url> url = azure_host_of("https://" + account);
    if (!url || !account_.is_azure(*url)) {
      return Status::error(Code::kInvalid, "not a host of Azure Blob Storage").with_path(path);
    }
    Result<Location> location = locate_in_container(path, start, directory, kHadoopExample);
    if (!location.ok()) return location;
    location->container = url->authority() + "/" + path.substr(start, at - start);
    return location;
  } else if (account_.endpoint.empty()) {
    return Status::error(Code::kInvalid, "no Azure storage account is named")
        .with_path(path)
        .with_hint("Set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING");
  }
  Result<Location> location = locate_in_container(path, start, directory, "az://CONTAINER/BLOB");
  if (!location.ok() || host.empty()) return location;
  location->container.insert(0, host);
  location->key = percent_decode(location->key);
  return location;
}

Result<Credentials> Azure::resolve(const Settings& settings, const std::string& container,
                                   Connection& connection) const {
  // The key and the signature of the settings are for one account only.
  const Result<Url> url = parse_url(address(container));
  if (url.ok() && account_.owns(*url)) {
    Credentials credentials;
    if (!account_.key.empty()) {
      credentials.values = {{kAccountKey, base64(account_.key)}, {kAccountName, account_.name}};
      credentials.identity = "key of account " + account_.name + " of " + account_.origin;
      return credentials;
    }
    if (!account_.sas_token.empty()) {
      credentials.values[kSasToken] = account_.sas_token;
      credentials.identity = "shared access signature of " + account_.origin;
      return credentials;
    }
  }
  return find_azure_credentials(settings, connection);
}

Status Azure::authorize(Request* request, const CredentialsRef& credentials) const {
  request->set("x-ms-version", kApiVersion);
  if (!credentials) return {};
  Result<Url> url = parse_url(request->url);
  if (!url.ok()) return url.status();
  if (!account_.is_azure(*url)) {
    return Status::error(Code::kInvalid, "not a host of Azure Blob Storage")
        .with_identity(credentials->identity);
  }
  const std::string sas = value_of(*credentials, kSasToken);
  if (!sas.empty()) {
    request->url += (request->url.find('?') == std::string::npos ? '?' : '&') + sas;
    return {};
  }
  if (set_bearer(request, *credentials)) return {};
  const auto key = base64_decode(value_of(*credentials, kAccountKey));
  if (!key || key->empty()) {
    return Status::error(Code::kCredentials,
                         "the credentials for az:// have none of token, "
                         "sas_token and account_key")
        .with_identity(credentials->identity);
  }
  std::string name = value_of(*credentials, kAccountName);
  if (name.empty()) name = account_.name;
  request->signed_at = server_time(request->url);
  sign_shared_key(request, *url, name, *key, request->signed_at);
  return {};
}

// Paths below an https URL are encoded, because reads decode them.
void encode_listed(const Location& directory, ListPage* page) {
  std::string base = directory.path;
  while (base.ends_with('/')) base.pop_back();
  for (ListPage::Entry& entry : page->entries) {
    if (!entry.key.starts_with(directory.key)) continue;
    entry.path = base + "/" + percent_encode(entry.key.substr(directory.key.size()), "/");
  }
}

Result<ListPage> Azure::read_list(const Location& directory, bool, const std::string&,
                                  const Response& response) {
  const std::optional<XmlElement> xml = parse_xml(response.body);
  const XmlElement* blobs = xml ? xml->child("Blobs") : nullptr;
  if (blobs == nullptr) return Status::error(Code::kIo, "the response is not a list of blobs");
  ListPage page;
  page.next = xml->child_text("NextMarker");
  for (const XmlElement& blob : blobs->children) {
    const XmlElement* properties = blob.child("Properties");
    if (blob.name != "Blob" || properties == nullptr) continue;
    // Accounts with a hierarchical namespace list their directories as well.
    if (properties->child_text("ResourceType") == "directory") continue;
    add_listed(&page, blob.child_text("Name"), properties->child_text("Content-Length"),
               quoted_etag(properties->child_text("Etag")));
  }
  if (lower(directory.path).starts_with("https")) encode_listed(directory, &page);
  return page;
}

void Azure::explain_signature(ServerError* error) const {
  for (const auto& [name, value] : split_pairs(account_.sas_token, '&')) {
    if (name != "se") continue;
    const std::string end = percent_decode(value);
    const std::string now = format_utc(std::time(nullptr), "%Y-%m-%dT%H:%M:%SZ");
    // Times of ISO 8601 in UTC compare as text, as far as the shorter one is written.
    if (end < now.substr(0, end.size())) {
      error->code = Code::kCredentials;
      error->message = "the shared access signature has expired";
      error->hint = "It ended at " + end + " (" + account_.origin + "): make a new one";
    } else {
      error->hint = "The signature in " + account_.origin + " is valid until " + end +
                    ": it needs the permissions r and l, for this container";
    }
  }
}

ServerError Azure::read_error(const Location&, const Response& response) {
  ServerError error = error_by_status(response.status);
  error.request_id = response.header("x-ms-request-id");
  error.server_code = response.header("x-ms-error-code");
  if (const auto xml = parse_xml(response.body)) {
    if (error.server_code.empty()) error.server_code = xml->child_text("Code");
    // Lines after the first repeat the request id and the time.
    const std::string_view message = xml->child_text("Message");
    error.server_message = message.substr(0, message.find('\n'));
    const std::string_view detail = xml->child_text("AuthenticationErrorDetail");
    if (!detail.empty()) error.server_message.append(" ").append(detail);
  }
  apply_known(kKnown, &error);
  if (response.status == 403 && error.server_code == "AuthenticationFailed" &&
      learn_server_time(response)) {
    error.decision = RetryDecision::kRetryAtOnce;
    return error;
  }
  if (response.status == 401) {  // a token that has expired, or the wrong kind of one
    error.decision = RetryDecision::kRefresh;
    error.code = anonymous_ ? Code::kPermission : Code::kCredentials;
  } else if (response.status == 404 && anonymous_) {
    error.hint = "Requests are anonymous; the container may not be public";
  }
  const bool refused = response.status == 401 || response.status == 403;
  if (refused && !account_.key.empty() && !anonymous_) {
    error.hint = "Check the account key in " + account_.origin + ", and the clock";
  } else if (refused && !account_.sas_token.empty() && !anonymous_) {
    explain_signature(&error);
  }
  if (anonymous_ && error.decision == RetryDecision::kRefresh)
    error.decision = RetryDecision::kFail;
  return error;
}

}  // namespace

Result<std::unique_ptr<Protocol>> make_azure(const ProtocolContext& context) {
  const Result<bool> anonymous =
      context.settings.enabled("RUNAI_STREAMER_AZURE_USE_ANONYMOUS_CREDENTIALS");
  if (!anonymous.ok()) return anonymous.status();
  Result<AzureAccount> account = read_azure_account(context.settings);
  if (!account.ok()) return account.status();
  return std::unique_ptr<Protocol>(
      std::make_unique<Azure>(context, std::move(*account), *anonymous));
}

}  // namespace streamer::http

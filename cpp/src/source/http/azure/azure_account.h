// The storage account that az:// means, and the identity for it, as the settings describe them.
#pragma once

#include <optional>
#include <string>

#include "base/settings.h"
#include "source/http/client/connection.h"
#include "source/http/client/origin.h"
#include "streamer/status.h"
#include "streamer/types.h"

namespace streamer::http {

struct AzureAccount {
  std::string name;
  std::string endpoint;       // of the blob service, without a '/' at the end
  std::string endpoint_from;  // the variable that names it
  std::string key;            // as bytes; empty: none
  std::string sas_token;      // without '?'; empty: none
  std::string origin;         // of key or token: names a variable
  std::string domain;  // of blob endpoints, by AZURE_STORAGE_ENDPOINT_SUFFIX; empty: Azure's own

  // True if a request to `url` may hold the account's key or signature.
  bool owns(const Url& url) const;
  // True if a request to `url` may hold the access token of an identity.
  bool is_azure(const Url& url) const;
};

// From AZURE_STORAGE_CONNECTION_STRING, else from AZURE_STORAGE_ACCOUNT_NAME and its companions.
// The name is empty if none of them is set.
Result<AzureAccount> read_azure_account(const Settings& settings);

// The account's host and port that an https:// path names, as it is compared; nothing if the path
// does not begin with https:// or its host is not a valid one.
std::optional<Url> azure_host_of(const std::string& path);

// Without an SDK: an access token (kToken) for storage from the first that there is: client secret,
// federated token file (workload identity), managed identity. kCredentials names the places that
// were searched.
Result<Credentials> find_azure_credentials(const Settings& settings, Connection& connection);

}  // namespace streamer::http

// The storage account that az:// means, and who asks for it, as the settings describe them.
#pragma once

#include <string>

#include "base/settings.h"
#include "source/http/client/connection.h"
#include "streamer/status.h"
#include "streamer/types.h"

namespace streamer::http {

struct AzureAccount {
  std::string name;
  std::string endpoint;   // of the blob service, without a '/' at the end
  std::string key;        // as bytes; empty: none
  std::string sas_token;  // without '?'; empty: none
  std::string origin;     // of key or token: names a variable
};

// From AZURE_STORAGE_CONNECTION_STRING, else from AZURE_STORAGE_ACCOUNT_NAME and its companions.
// The name is empty where none of them is set.
Result<AzureAccount> read_azure_account(const Settings& settings);

// Without an SDK: an access token (kToken) for storage from the first that there is: client secret,
// federated token file (workload identity), managed identity. kCredentials names what was looked
// at.
Result<Credentials> find_azure_credentials(const Settings& settings, Connection& connection);

}  // namespace streamer::http

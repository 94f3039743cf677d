// The storage account that az:// means, as the settings describe it.
#pragma once

#include <string>

#include "base/settings.h"
#include "streamer/status.h"

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

}  // namespace streamer::http

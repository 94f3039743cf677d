// Finding Microsoft Entra credentials without an SDK.
#pragma once

#include "base/settings.h"
#include "source/http/connection.h"
#include "streamer/stream.h"

namespace streamer::http {

// An access token (kToken) for storage from the first that there is: client secret, federated token
// file (workload identity), managed identity. kCredentials names what was looked at.
Result<Credentials> find_azure_credentials(const Settings& settings, Connection& connection);

}  // namespace streamer::http

// Finding Google credentials without an SDK.
#pragma once

#include "base/settings.h"
#include "source/http/client/connection.h"
#include "streamer/types.h"

namespace streamer::http {

// An access token (kToken) from the first that there is: RUNAI_STREAMER_GCS_CREDENTIAL_FILE,
// GOOGLE_APPLICATION_CREDENTIALS, gcloud's application default credentials, the metadata server.
// Understands service accounts and authorized users; kCredentials for other kinds, or if there is
// nothing, names the places that were searched.
Result<Credentials> find_google_credentials(const Settings& settings, Connection& connection);

}  // namespace streamer::http

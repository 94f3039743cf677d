// Programs that print credentials: credential_process of a profile.
#pragma once

#include <string>
#include <vector>

#include "source/http/client/connection.h"
#include "streamer/status.h"

namespace streamer::http {

// The words of a command line. Of a shell's syntax, it has only quotes and backslashes.
std::vector<std::string> split_command(const std::string& command);

// The output of the program. kCredentials if it can't be started, fails, prints more than 1 MiB or
// takes longer than a minute; then, and when the load is cancelled, it is ended.
Result<std::string> run_credential_process(const std::string& command, const Transport& transport);

}  // namespace streamer::http

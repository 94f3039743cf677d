// The shared files of AWS tools: ~/.aws/config and ~/.aws/credentials.
#pragma once

#include <map>
#include <string>

#include "base/settings.h"

namespace streamer::http {

// Sections of an INI file in the dialect of AWS: "[name]", "key = value", nested values as
// "key.nested". Malformed lines are passed over.
using Sections = std::map<std::string, std::map<std::string, std::string>>;
Sections parse_aws_ini(const std::string& text);

// One profile out of both files. Credentials in the credentials file win.
struct AwsProfile {
  std::string name;
  bool named = false;   // by AWS_PROFILE or AWS_DEFAULT_PROFILE
  bool exists = false;  // in at least one of the files
  std::map<std::string, std::string> values;
  std::string keys_file;        // the file of the access key; empty: none
  bool keys_in_config = false;  // in the file that credential_process is in, which comes first

  std::string value(const char* key) const {
    const auto it = values.find(key);
    return it == values.end() ? std::string() : it->second;
  }
};
// The profile that the settings name.
AwsProfile read_aws_profile(const Settings& settings);
AwsProfile read_aws_profile(const Settings& settings, const std::string& name);

}  // namespace streamer::http

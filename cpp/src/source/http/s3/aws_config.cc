#include "source/http/s3/aws_config.h"

#include <fstream>
#include <sstream>

#include "base/text.h"

namespace streamer::http {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The name of a profile may be quoted: [profile "a b"].
std::string section_name(std::string_view text) {
  const std::size_t quote = text.find('"');
  if (quote == std::string_view::npos || !text.ends_with('"') || quote + 1 >= text.size()) {
    return std::string(text);
  }
  return std::string(text.substr(0, quote)) +
         std::string(text.substr(quote + 1, text.size() - quote - 2));
}

}  // namespace

Sections parse_aws_ini(const std::string& text) {
  Sections sections;
  std::map<std::string, std::string>* section = nullptr;
  std::string parent;  // of nested lines: a key without a value
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool indented = line.starts_with(' ') || line.starts_with('\t');
    std::string_view rest = trim(line);
    if (rest.empty() || rest.front() == '#' || rest.front() == ';') continue;
    if (rest.front() == '[') {
      const std::size_t close = rest.find(']');
      if (close == std::string_view::npos) continue;
      section = &sections[section_name(trim(rest.substr(1, close - 1)))];
      parent.clear();
      continue;
    }
    const std::size_t equals = rest.find('=');
    if (section == nullptr || equals == std::string_view::npos) continue;
    const std::string key = lower(trim(rest.substr(0, equals)));
    std::string_view value = trim(rest.substr(equals + 1));
    for (const char* comment : {" #", " ;", "\t#", "\t;"}) {
      value = trim(value.substr(0, value.find(comment)));
    }
    if (indented && !parent.empty()) {
      (*section)[std::string(parent).append(".").append(key)] = value;
      continue;
    }
    parent = value.empty() ? key : std::string();
    (*section)[key] = value;
  }
  return sections;
}

AwsProfile read_aws_profile(const Settings& settings) {
  const auto preferred = settings.text("AWS_PROFILE");
  const auto named = preferred ? preferred : settings.text("AWS_DEFAULT_PROFILE");
  AwsProfile profile =
      read_aws_profile(settings, named.value_or(settings.text_or_default("AWS_DEFAULT_PROFILE")));
  profile.named = named.has_value();
  return profile;
}

AwsProfile read_aws_profile(const Settings& settings, const std::string& name) {
  AwsProfile profile;
  profile.name = name;
  const std::string config_file = settings.path("AWS_CONFIG_FILE");
  const std::string credentials_file = settings.path("AWS_SHARED_CREDENTIALS_FILE");

  const Sections config = parse_aws_ini(read_text(config_file));
  for (const std::string& section : {profile.name, "profile " + profile.name}) {
    if (section == profile.name && profile.name != "default") continue;  // others need the prefix
    const auto it = config.find(section);
    if (it == config.end()) continue;
    profile.exists = true;
    for (const auto& [key, value] : it->second) profile.values[key] = value;
  }
  if (!profile.value("aws_access_key_id").empty()) {
    profile.keys_file = config_file;
    profile.keys_in_config = true;
  }
  if (const std::string services = profile.value("services"); !services.empty()) {
    if (const auto it = config.find("services " + services); it != config.end()) {
      const auto endpoint = it->second.find("s3.endpoint_url");
      if (endpoint != it->second.end()) profile.values["s3.endpoint_url"] = endpoint->second;
    }
  }

  if (const std::string session = profile.value("sso_session"); !session.empty()) {
    if (const auto it = config.find("sso-session " + session); it != config.end()) {
      for (const auto& [key, value] : it->second) profile.values.try_emplace(key, value);
    }
  }

  const Sections credentials = parse_aws_ini(read_text(credentials_file));
  if (const auto it = credentials.find(profile.name); it != credentials.end()) {
    profile.exists = true;
    if (it->second.contains("aws_access_key_id")) {
      profile.values.erase("aws_session_token");  // belongs to the other file's key
      profile.keys_file = credentials_file;
      profile.keys_in_config = false;
    }
    for (const auto& [key, value] : it->second) profile.values[key] = value;
  }
  return profile;
}

}  // namespace streamer::http

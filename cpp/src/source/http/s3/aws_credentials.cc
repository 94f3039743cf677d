#include "source/http/s3/aws_credentials.h"

#include <ctime>
#include <fstream>
#include <sstream>

#include "base/text.h"
#include "source/http/client/origin.h"
#include "source/http/s3/addressing.h"
#include "text/encoding.h"
#include "text/json.h"
#include "text/url.h"

namespace streamer::http {
namespace {

constexpr int kMetadataTimeoutMs = 1000;

Status failed(const std::string& what, const Response& response) {
  return Status::error(Code::kCredentials, what)
      .with_http(response.status, "", std::string(trim(response.body.substr(0, 200))), "");
}

Credentials make(std::string access_key, std::string secret_key, std::string token,
                 std::int64_t expires_at, const std::string& from) {
  Credentials out;
  out.identity = "access key " + describe_access_key(access_key) + " from " + from;
  out.values = {{kAccessKey, std::move(access_key)}, {kSecretKey, std::move(secret_key)}};
  if (!token.empty()) out.values[kSessionToken] = std::move(token);
  out.expires_at = expires_at;
  return out;
}

// What container endpoints and instance metadata send.
Result<Credentials> from_json(const Response& response, const std::string& from) {
  const auto json = parse_json(response.body);
  if (!json || json->string("AccessKeyId").empty() || json->string("SecretAccessKey").empty()) {
    return Status::error(Code::kCredentials, from + " gave no usable credentials");
  }
  const auto expires = parse_iso8601(json->string("Expiration"));
  return make(json->string("AccessKeyId"), json->string("SecretAccessKey"), json->string("Token"),
              expires.value_or(0), from);
}

Result<std::string> read_secret_file(const std::string& path, const char* what) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  std::string value(trim(text.str()));
  if (!file || value.empty()) {
    return Status::error(Code::kCredentials, std::string("can't read the ") + what).with_path(path);
  }
  return value;
}

Result<Credentials> from_web_identity(const Settings& settings, const std::string& token_file,
                                      const std::string& role, std::string session,
                                      const std::string& region, Connection& connection) {
  Result<std::string> token = read_secret_file(token_file, "web identity token file");
  if (!token.ok()) return token.status();
  if (session.empty()) session = "model-streamer-" + std::to_string(std::time(nullptr));
  std::string endpoint = settings.text("AWS_ENDPOINT_URL_STS").value_or("");
  if (endpoint.empty()) {
    if (Status status = check_region(region); !status.ok()) return status;
    endpoint =
        "https://sts." + region + ".amazonaws.com" + (region.starts_with("cn-") ? ".cn" : "");
  }
  Result<Url> url = parse_url(endpoint, "https");
  if (!url.ok()) return url.status();
  Request request{.method = "POST", .url = url->to_string()};
  request.set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8");
  request.secret_body = true;
  request.body =
      "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=" + percent_encode(role) +
      "&RoleSessionName=" + percent_encode(session) + "&WebIdentityToken=" + percent_encode(*token);
  Result<Response> response = connection.fetch(request);
  if (!response.ok()) return response.status();
  const std::string from = "web identity (role " + role + ")";
  if (response->status != 200) {
    ErrorDetail error;
    if (const auto xml = parse_xml(response->body)) {
      if (const XmlElement* e = xml->child("Error")) {
        error.server_code = e->child_text("Code");
        error.server_message = e->child_text("Message");
      }
    }
    return Status::error(Code::kCredentials, "STS refused to assume the role " + role)
        .with_http(response->status, error.server_code, error.server_message,
                   std::string(response->header("x-amzn-requestid")))
        .with_identity(from);
  }
  const auto xml = parse_xml(response->body);
  const XmlElement* result = xml ? xml->child("AssumeRoleWithWebIdentityResult") : nullptr;
  const XmlElement* element = result != nullptr ? result->child("Credentials") : nullptr;
  // Not with the response's words: they may hold what is not to be seen.
  if (element == nullptr) {
    return Status::error(Code::kCredentials, "STS gave no usable credentials").with_identity(from);
  }
  return credentials_from_xml(*element, from);
}

Result<Credentials> from_container(const Settings& settings, const std::string& address,
                                   Connection& connection) {
  Result<Url> url = parse_url(address);
  if (!url.ok()) return url.status();
  if (!may_receive(Secret::kAwsContainer, *url, {})) {
    return Status::error(Code::kInvalid,
                         "AWS_CONTAINER_CREDENTIALS_FULL_URI names a host that is not allowed")
        .with_hint("It must be https, a loopback address, or that of ECS or EKS");
  }
  Request request{.url = url->to_string(), .proxy = false, .timeout_ms = 5000};
  request.connect_timeout_ms = 2000;
  std::string token = settings.text("AWS_CONTAINER_AUTHORIZATION_TOKEN").value_or("");
  if (const auto file = settings.text("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")) {
    Result<std::string> text = read_secret_file(*file, "container authorization token file");
    if (!text.ok()) return text.status();
    token = *text;
  }
  if (!token.empty()) request.set("Authorization", token);
  Result<Response> response = connection.fetch(request);
  if (!response.ok()) return response.status();
  if (response->status != 200) {
    return failed("the container's credentials endpoint refuses", *response);
  }
  return from_json(*response, "the container's credentials endpoint");
}

Result<Credentials> from_instance(const Settings& settings, Connection& connection) {
  const auto named = settings.text("AWS_EC2_METADATA_SERVICE_ENDPOINT");
  const std::string base = named.value_or("http://169.254.169.254");
  const Patience patience = named ? Patience::kService : Patience::kProbe;
  Result<Url> url = parse_url(base, "http");
  if (!url.ok()) return url.status();
  const auto ask = [&](const char* method, const std::string& path, const std::string& token) {
    Request request{.method = method, .url = url->origin() + path, .proxy = false};
    request.timeout_ms = request.connect_timeout_ms = kMetadataTimeoutMs;
    if (token.empty()) {
      request.set("X-aws-ec2-metadata-token-ttl-seconds", "21600");
    } else {
      request.set("X-aws-ec2-metadata-token", token);
    }
    return connection.fetch(request, patience);
  };
  const std::string from = "EC2 instance metadata";
  Result<Response> token = ask("PUT", "/latest/api/token", "");
  if (!token.ok()) return token.status();
  if (token->status != 200) return failed(from + " gives no token", *token);
  const std::string path = "/latest/meta-data/iam/security-credentials/";
  Result<Response> roles = ask("GET", path, token->body);
  if (!roles.ok()) return roles.status();
  if (roles->status != 200) return failed("the instance has no role", *roles);
  const std::string role(trim(roles->body.substr(0, roles->body.find('\n'))));
  Result<Response> keys = ask("GET", path + percent_encode(role), token->body);
  if (!keys.ok()) return keys.status();
  if (keys->status != 200) return failed(from + " gives no credentials", *keys);
  return from_json(*keys, from + " (role " + role + ")");
}

}  // namespace

std::string describe_access_key(const std::string& access_key) {
  if (access_key.size() < 12) return "***";
  return access_key.substr(0, 4) + "..." + access_key.substr(access_key.size() - 4);
}

Result<Credentials> credentials_from_xml(const XmlElement& element, const std::string& from) {
  const std::string access_key(element.child_text("AccessKeyId"));
  const std::string secret_key(element.child_text("SecretAccessKey"));
  if (access_key.empty() || secret_key.empty()) {
    return Status::error(Code::kCredentials, from + " gave no usable credentials");
  }
  return make(access_key, secret_key, std::string(element.child_text("SessionToken")),
              parse_iso8601(element.child_text("Expiration")).value_or(0), from);
}

Result<Credentials> find_aws_credentials(const Settings& settings, const AwsProfile& profile,
                                         const std::string& region, Connection& connection) {
  if (const auto key = settings.text("AWS_ACCESS_KEY_ID")) {
    const auto secret = settings.text("AWS_SECRET_ACCESS_KEY");
    if (!secret) {
      return Status::error(Code::kCredentials,
                           "AWS_ACCESS_KEY_ID is set but AWS_SECRET_ACCESS_KEY is not");
    }
    auto token = settings.text("AWS_SESSION_TOKEN");
    if (!token) token = settings.text("AWS_SECURITY_TOKEN");
    return make(*key, *secret, token.value_or(""), 0, "the environment (AWS_ACCESS_KEY_ID)");
  }
  const auto token_file = settings.text("AWS_WEB_IDENTITY_TOKEN_FILE");
  const auto role = settings.text("AWS_ROLE_ARN");
  if (token_file && role) {
    return from_web_identity(settings, *token_file, *role,
                             settings.text("AWS_ROLE_SESSION_NAME").value_or(""), region,
                             connection);
  }
  if (profile.named && !profile.exists) {
    return Status::error(Code::kCredentials, "there is no profile named " + profile.name)
        .with_hint("AWS_PROFILE names a profile of ~/.aws/config or ~/.aws/credentials");
  }
  if (!profile.value("web_identity_token_file").empty() && !profile.value("role_arn").empty()) {
    return from_web_identity(settings, profile.value("web_identity_token_file"),
                             profile.value("role_arn"), profile.value("role_session_name"), region,
                             connection);
  }
  for (const char* key : {"role_arn", "sso_session", "sso_start_url", "credential_process"}) {
    if (profile.value(key).empty() || !profile.keys_file.empty()) continue;
    const std::string what = "profile " + profile.name + " uses " + key + ", which needs boto3";
    const auto switched_off = settings.boolean("RUNAI_STREAMER_NO_BOTO3_SESSION");
    if (!switched_off.ok()) return switched_off.status();
    if (switched_off->value_or(false)) {
      return Status::error(Code::kCredentials, what)
          .with_hint("Leave RUNAI_STREAMER_NO_BOTO3_SESSION unset");
    }
    return Status::error(Code::kPackage, what).with_hint("pip install 'runai-model-streamer[s3]'");
  }
  if (!profile.keys_file.empty()) {
    return make(profile.value("aws_access_key_id"), profile.value("aws_secret_access_key"),
                profile.value("aws_session_token"), 0,
                "profile " + profile.name + " in " + profile.keys_file);
  }
  if (const auto path = settings.text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")) {
    return from_container(settings, "http://169.254.170.2" + *path, connection);
  }
  if (const auto address = settings.text("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
    return from_container(settings, *address, connection);
  }
  std::string looked_at = "the environment, " + std::string("profile ") + profile.name +
                          ", web identity, a container's endpoint";
  const auto disabled = settings.boolean("AWS_EC2_METADATA_DISABLED");
  if (!disabled.ok()) return disabled.status();
  if (!disabled->value_or(false)) {
    Result<Credentials> found = from_instance(settings, connection);
    if (found.ok() || found.status().code() == Code::kCancelled) return found;
    looked_at += ", EC2 instance metadata (" + found.status().detail().message + ")";
  }
  return Status::error(Code::kCredentials, "no AWS credentials found; looked at " + looked_at)
      .with_hint(
          "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
          "RUNAI_STREAMER_S3_UNSIGNED=1 for a public bucket");
}

}  // namespace streamer::http

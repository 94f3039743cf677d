#include "source/http/s3/aws_credentials.h"

#include <ctime>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "base/shown_text.h"
#include "base/text.h"
#include "source/http/auth/credentials_cache.h"
#include "source/http/auth/oauth.h"
#include "source/http/auth/server_clock.h"
#include "source/http/client/origin.h"
#include "source/http/s3/addressing.h"
#include "source/http/s3/credential_process.h"
#include "source/http/s3/sigv4.h"
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
  out.identity = "access key " + shown_access_key(access_key) + " from " + from;
  out.values = {{kAccessKey, std::move(access_key)}, {kSecretKey, std::move(secret_key)}};
  if (!token.empty()) out.values[kSessionToken] = std::move(token);
  out.expires_at = expires_at;
  return out;
}

Status unusable(const std::string& from) {
  return Status::error(Code::kCredentials, from + " gave no usable credentials");
}

// make() of values from others, which may lack a key.
Result<Credentials> make_given(std::string access_key, std::string secret_key, std::string token,
                               std::int64_t expires_at, const std::string& from) {
  if (access_key.empty() || secret_key.empty()) return unusable(from);
  return make(std::move(access_key), std::move(secret_key), std::move(token), expires_at, from);
}

// The credentials that container endpoints, instance metadata and processes give.
Result<Credentials> from_json(const std::optional<Json>& json, const char* token,
                              const std::string& from) {
  if (!json) return unusable(from);
  return make_given(json->string("AccessKeyId"), json->string("SecretAccessKey"),
                    json->string(token), parse_iso8601(json->string("Expiration")).value_or(0),
                    from);
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

// The endpoint of STS. Without a setting it is that of the region.
Result<Url> sts_url(const Settings& settings, const AwsProfile& profile,
                    const std::string& region) {
  const std::string named = settings.text("AWS_ENDPOINT_URL_STS").value_or("");
  if (!named.empty()) return parse_url(named, "https");
  if (Status status = check_region(region); !status.ok()) return status;
  const auto fips = uses_fips(settings, profile);
  if (!fips.ok()) return fips.status();
  // All endpoints of GovCloud are FIPS endpoints.
  const std::string service = *fips && !region.starts_with("us-gov-") ? "sts-fips" : "sts";
  return parse_url("https://" + service + "." + region + "." + aws_suffix(region));
}

// The response of STS to `action`.
Result<Credentials> read_sts(const Response& response, const std::string& action,
                             const std::string& role, const std::string& from) {
  const auto xml = parse_xml(response.body);
  if (response.status != 200) {
    ErrorDetail error;
    if (const XmlElement* e = xml ? xml->child("Error") : nullptr; e != nullptr) {
      error.server_code = e->child_text("Code");
      error.server_message = e->child_text("Message");
    }
    return Status::error(Code::kCredentials, "STS refused to assume the role " + role)
        .with_http(response.status, error.server_code, error.server_message,
                   std::string(response.header("x-amzn-requestid")))
        .with_identity(from);
  }
  const XmlElement* result = xml ? xml->child(action + "Result") : nullptr;
  const XmlElement* element = result != nullptr ? result->child("Credentials") : nullptr;
  // Without the text of the response, which may contain secrets.
  if (element == nullptr) {
    return unusable("STS").with_identity(from);
  }
  return credentials_from_xml(*element, from);
}

Request sts_request(const Url& url, std::string form) {
  Request request{.method = "POST", .url = url.to_string()};
  request.set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8");
  request.secret_body = true;
  request.body = std::move(form);
  return request;
}

std::string session_name(const std::string& given) {
  return given.empty() ? "model-streamer-" + std::to_string(std::time(nullptr)) : given;
}

Result<Credentials> from_web_identity(const Settings& settings, const AwsProfile& profile,
                                      const std::string& token_file, const std::string& role,
                                      const std::string& session, const std::string& region,
                                      Connection& connection) {
  Result<std::string> token = read_secret_file(token_file, "web identity token file");
  if (!token.ok()) return token.status();
  Result<Url> url = sts_url(settings, profile, region);
  if (!url.ok()) return url.status();
  Result<Response> response =
      connection.fetch(sts_request(*url, form_encode({{"Action", "AssumeRoleWithWebIdentity"},
                                                      {"Version", "2011-06-15"},
                                                      {"RoleArn", role},
                                                      {"RoleSessionName", session_name(session)},
                                                      {"WebIdentityToken", *token}})));
  if (!response.ok()) return response.status();
  return read_sts(*response, "AssumeRoleWithWebIdentity", role, "web identity (role " + role + ")");
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
  return from_json(parse_json(response->body), "Token", "the container's credentials endpoint");
}

// By the variables that ECS and EKS set. kNotFound if there are none.
Result<Credentials> from_container_variables(const Settings& settings, Connection& connection) {
  if (const auto path = settings.text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")) {
    return from_container(settings, "http://169.254.170.2" + *path, connection);
  }
  if (const auto address = settings.text("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
    return from_container(settings, *address, connection);
  }
  return Status::error(Code::kNotFound, "no container's endpoint of credentials is named");
}

Result<Credentials> from_instance(const Settings& settings, Connection& connection) {
  constexpr const char* kEndpoint = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
  const std::string base = settings.text_or_default(kEndpoint);
  const Persistence persistence =
      settings.text(kEndpoint) ? Persistence::kService : Persistence::kProbe;
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
    return connection.fetch(request, persistence);
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
  return from_json(parse_json(keys->body), "Token", from + " (role " + role + ")");
}

// The token that AWS' tools keep of `aws sso login`, in exchange for the keys of a role.
Result<Credentials> from_sso(const Settings& settings, const AwsProfile& profile,
                             Connection& connection) {
  const std::string from = "SSO of profile " + profile.name;
  const std::string region = profile.value("sso_region");
  if (Status status = check_region(region); !status.ok())
    return std::move(status).with_identity(from);
  const std::string session = profile.value("sso_session");
  const std::string file = settings.text("HOME").value_or("") + "/.aws/sso/cache/" +
                           hex(sha1(session.empty() ? profile.value("sso_start_url") : session)) +
                           ".json";
  const auto expired = [&](const std::string& what) {
    return Status::error(Code::kCredentials, what)
        .with_path(file)
        .with_identity(from)
        .with_hint("aws sso login --profile " + profile.name);
  };
  Result<std::string> text = read_secret_file(file, "SSO token");
  if (!text.ok()) return expired("there is no SSO token");
  const auto json = parse_json(*text);
  const std::string token = json ? json->string("accessToken") : std::string();
  const auto ends = json ? parse_iso8601(json->string("expiresAt")) : std::nullopt;
  if (token.empty() || (ends && *ends <= std::time(nullptr))) {
    return expired("the SSO token has expired");
  }
  const std::string standard = "https://portal.sso." + region + "." + aws_suffix(region);
  Result<Url> url = parse_url(settings.text("AWS_ENDPOINT_URL_SSO").value_or(standard), "https");
  if (!url.ok()) return url.status();
  if (url->scheme != "https" && !is_loopback(*url)) {
    return Status::error(Code::kInvalid, "AWS_ENDPOINT_URL_SSO must be an https URL");
  }
  Request request{.url = url->origin() + "/federation/credentials?" +
                         form_encode({{"role_name", profile.value("sso_role_name")},
                                      {"account_id", profile.value("sso_account_id")}})};
  request.set("x-amz-sso_bearer_token", token);
  Result<Response> response = connection.fetch(request);
  if (!response.ok()) return response.status();
  if (response->status == 401) return expired("the SSO token is not accepted");
  if (response->status != 200) {
    return failed("SSO gives no credentials", *response).with_identity(from);
  }
  const auto given = parse_json(response->body);
  const Json keys = given ? (*given)["roleCredentials"] : Json();
  Result<Credentials> credentials =
      make_given(keys.string("accessKeyId"), keys.string("secretAccessKey"),
                 keys.string("sessionToken"), keys.integer("expiration").value_or(0) / 1000, from);
  if (!credentials.ok()) return credentials.status().with_identity(from);
  return credentials;
}

Result<Credentials> from_process(const AwsProfile& profile, Connection& connection) {
  Result<std::string> text =
      run_credential_process(profile.value("credential_process"), connection.transport());
  if (!text.ok()) return text.status();
  const auto json = parse_json(*text);
  const std::string from = "credential_process of profile " + profile.name;
  const bool known = json && json->integer("Version").value_or(0) == 1;
  Result<Credentials> credentials =
      known ? from_json(json, "SessionToken", from) : Result<Credentials>(unusable(from));
  if (credentials.ok()) return credentials;
  return credentials.status().with_hint(
      "It must print a JSON object with Version 1, AccessKeyId and SecretAccessKey");
}

Result<Credentials> from_environment(const Settings& settings) {
  const auto key = settings.text("AWS_ACCESS_KEY_ID");
  const auto secret = settings.text("AWS_SECRET_ACCESS_KEY");
  if (!key || !secret) {
    return Status::error(Code::kCredentials, key ? "AWS_ACCESS_KEY_ID is set but "
                                                   "AWS_SECRET_ACCESS_KEY is not"
                                                 : "AWS_ACCESS_KEY_ID is not set");
  }
  auto token = settings.text("AWS_SESSION_TOKEN");
  if (!token) token = settings.text("AWS_SECURITY_TOKEN");
  return make(*key, *secret, token.value_or(""), 0, "the environment (AWS_ACCESS_KEY_ID)");
}

// The identity that a profile describes, by way of other profiles if it names them.
class ProfileResolver {
 public:
  ProfileResolver(const Settings& settings, std::string region, Connection& connection)
      : settings_(settings), region_(std::move(region)), connection_(connection) {}

  // Nothing if the profile describes none.
  Result<std::optional<Credentials>> resolve(const AwsProfile& profile) {
    const auto found = [](Result<Credentials> credentials) -> Result<std::optional<Credentials>> {
      if (!credentials.ok()) return credentials.status();
      return std::optional<Credentials>(std::move(*credentials));
    };
    const std::string role = profile.value("role_arn");
    const std::string token_file = profile.value("web_identity_token_file");
    if (!role.empty() && !token_file.empty()) {
      return found(from_web_identity(settings_, profile, token_file, role,
                                     profile.value("role_session_name"), region_, connection_));
    }
    if (!role.empty()) return found(assume(profile, role));
    if (!profile.value("sso_account_id").empty() || !profile.value("sso_role_name").empty()) {
      return found(from_sso(settings_, profile, connection_));
    }
    const bool in_config = profile.keys_file.empty() || profile.keys_in_config;
    if (in_config && !profile.value("credential_process").empty()) {
      return found(from_process(profile, connection_));
    }
    if (profile.keys_file.empty()) return std::optional<Credentials>();
    return found(keys_of(profile));
  }

 private:
  static Result<Credentials> keys_of(const AwsProfile& profile) {
    return make(profile.value("aws_access_key_id"), profile.value("aws_secret_access_key"),
                profile.value("aws_session_token"), 0,
                "profile " + profile.name + " in " + profile.keys_file);
  }

  static Status wrong(const AwsProfile& profile, const std::string& what) {
    return Status::error(Code::kCredentials, "profile " + profile.name + " " + what);
  }

  // The identity that may assume the role of the profile.
  Result<Credentials> source_of(const AwsProfile& profile) {
    const std::string name = profile.value("source_profile");
    const std::string kind = profile.value("credential_source");
    if (name.empty() == kind.empty()) {
      return wrong(profile, "has a role_arn: it needs one of source_profile and credential_source");
    }
    if (kind == "Environment") return from_environment(settings_);
    if (kind == "Ec2InstanceMetadata") return from_instance(settings_, connection_);
    if (kind == "EcsContainer") return from_container_variables(settings_, connection_);
    if (!kind.empty()) return wrong(profile, "has an unknown credential_source: " + kind);
    const AwsProfile source = read_aws_profile(settings_, name);
    if (!source.exists) return wrong(profile, "has a source_profile that does not exist: " + name);
    // A profile that is its own source means its keys; so does one that was on the way here.
    const bool own = name == profile.name;
    if (!source.keys_file.empty() && (own || source.value("role_arn").empty())) {
      return keys_of(source);
    }
    if (own || !visited_.insert(name).second) {
      return wrong(profile, "has a source_profile that leads back to it: " + name);
    }
    Result<std::optional<Credentials>> found = resolve(source);
    if (!found.ok()) return found.status();
    if (!*found) return wrong(profile, "has a source_profile without credentials: " + name);
    return std::move(**found);
  }

  Result<Credentials> assume(const AwsProfile& profile, const std::string& role) {
    visited_.insert(profile.name);
    if (!profile.value("mfa_serial").empty()) {
      return wrong(profile, "needs a code of an MFA device, which a load cannot ask for")
          .with_hint("Use keys of a session: aws sts assume-role --serial-number ...");
    }
    Result<Credentials> source = source_of(profile);
    if (!source.ok()) return source;
    Result<Url> url = sts_url(settings_, profile, region_);
    if (!url.ok()) return url.status();
    std::string form =
        form_encode({{"Action", "AssumeRole"},
                     {"Version", "2011-06-15"},
                     {"RoleArn", role},
                     {"RoleSessionName", session_name(profile.value("role_session_name"))}});
    for (const auto& [key, parameter] : {std::pair{"external_id", "ExternalId"},
                                         std::pair{"duration_seconds", "DurationSeconds"}}) {
      if (const std::string value = profile.value(key); !value.empty()) {
        form += "&" + form_encode({{parameter, value}});
      }
    }
    const auto ask = [&] {
      Request request = sts_request(*url, form);
      SigV4Scope scope{.access_key = value_of(*source, kAccessKey),
                       .secret_key = value_of(*source, kSecretKey),
                       .token = value_of(*source, kSessionToken)};
      scope.region = region_;
      scope.service = "sts";
      request.signed_at = server_time(request.url);
      SigV4Signer().sign(&request, *url, scope, request.signed_at, hex(sha256(form)));
      return connection_.fetch(request);
    };
    Result<Response> response = ask();
    if (response.ok() && response->status != 200 && learn_server_time(*response)) response = ask();
    if (!response.ok()) return response.status();
    return read_sts(
        *response, "AssumeRole", role,
        "role " + role + " (profile " + profile.name + ", assumed by " + source->identity + ")");
  }

  const Settings& settings_;
  const std::string region_;
  Connection& connection_;
  std::set<std::string> visited_;
};

}  // namespace

Result<Credentials> credentials_from_xml(const XmlElement& element, const std::string& from) {
  return make_given(std::string(element.child_text("AccessKeyId")),
                    std::string(element.child_text("SecretAccessKey")),
                    std::string(element.child_text("SessionToken")),
                    parse_iso8601(element.child_text("Expiration")).value_or(0), from);
}

Result<Credentials> find_aws_credentials(const Settings& settings, const AwsProfile& profile,
                                         const std::string& region, Connection& connection) {
  if (settings.text("AWS_ACCESS_KEY_ID")) return from_environment(settings);
  const auto token_file = settings.text("AWS_WEB_IDENTITY_TOKEN_FILE");
  const auto role = settings.text("AWS_ROLE_ARN");
  if (token_file && role) {
    return from_web_identity(settings, profile, *token_file, *role,
                             settings.text("AWS_ROLE_SESSION_NAME").value_or(""), region,
                             connection);
  }
  if (profile.named && !profile.exists) {
    return Status::error(Code::kCredentials, "there is no profile named " + profile.name)
        .with_hint("AWS_PROFILE names a profile of ~/.aws/config or ~/.aws/credentials");
  }
  Result<std::optional<Credentials>> described =
      ProfileResolver(settings, region, connection).resolve(profile);
  if (!described.ok()) return described.status();
  if (*described) return std::move(**described);
  Result<Credentials> container = from_container_variables(settings, connection);
  if (container.ok() || container.status().code() != Code::kNotFound) return container;
  std::string looked_at = "the environment, " + std::string("profile ") + profile.name +
                          ", web identity, a container's endpoint";
  const auto disabled = settings.enabled("AWS_EC2_METADATA_DISABLED");
  if (!disabled.ok()) return disabled.status();
  if (!*disabled) {
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

#include "source/http/s3/s3_errors.h"

#include "base/text.h"
#include "text/xml.h"

namespace streamer::http {
namespace {

constexpr auto kFail = RetryDecision::kFail;
constexpr auto kRetry = RetryDecision::kRetry;
constexpr auto kRefresh = RetryDecision::kRefresh;

// clang-format off
constexpr KnownError kKnown[] = {
    {"NoSuchKey", Code::kNotFound, kFail, "there is no such object", "Check the key, whose case matters; list_safetensors() and `model-streamer ls` list a directory"},
    {"NoSuchVersion", Code::kNotFound, kFail, "there is no such version of the object", ""},
    {"NoSuchBucket", Code::kNotFound, kFail, "there is no such bucket", "Check the bucket's name and the endpoint"},
    {"InvalidBucketName", Code::kInvalid, kFail, "the bucket's name is not valid", ""},
    {"AccessDenied", Code::kPermission, kFail, "the server refuses access", "The identity needs s3:GetObject and s3:ListBucket; buckets where the requester pays need RUNAI_STREAMER_S3_REQUEST_PAYER=1"},
    {"AllAccessDisabled", Code::kPermission, kFail, "access to the bucket is disabled", ""},
    {"AccountProblem", Code::kPermission, kFail, "the account that owns the bucket has a problem", ""},
    {"InvalidObjectState", Code::kPermission, kFail, "the object is archived", "Restore it first"},
    {"KMS.DisabledException", Code::kPermission, kFail, "the key that encrypts the object is disabled", "Enable the KMS key"},
    {"KMS.NotFoundException", Code::kPermission, kFail, "the key that encrypts the object is gone", ""},
    {"KMS.KMSInvalidStateException", Code::kPermission, kFail, "the key that encrypts the object can't be used now", ""},
    {"KMS.ThrottlingException", Code::kThrottled, kRetry, "the service of the encryption keys asks to slow down", ""},
    {"InvalidAccessKeyId", Code::kCredentials, kFail, "the server does not know the access key", "Check the access key and that it belongs to this endpoint"},
    {"SignatureDoesNotMatch", Code::kCredentials, kFail, "the signature does not match: the secret key is wrong", "Check the secret access key and the region"},
    {"InvalidSecurity", Code::kCredentials, kFail, "the credentials are not valid", ""},
    {"NotSignedUp", Code::kCredentials, kFail, "the account is not signed up for S3", ""},
    {"ExpiredToken", Code::kCredentials, kRefresh, "the session token has expired", "Renew the credentials"},
    {"TokenRefreshRequired", Code::kCredentials, kRefresh, "the session token must be refreshed", "Renew the credentials"},
    {"InvalidToken", Code::kCredentials, kRefresh, "the session token is not valid", "Check that AWS_SESSION_TOKEN belongs to the access key"},
    {"RequestTimeTooSkewed", Code::kCredentials, kFail, "this machine's clock is wrong", "Set the clock"},
    {"RequestExpired", Code::kCredentials, kFail, "the request arrived too late for its date", "Check this machine's clock"},
    {"PreconditionFailed", Code::kChanged, kFail, "the object was replaced while it was read", ""},
    {"InvalidRange", Code::kShortRead, kFail, "the object ends before the range does", ""},
    {"SlowDown", Code::kThrottled, kRetry, "the server asks to slow down", ""},
    {"ServiceUnavailable", Code::kThrottled, kRetry, "the service is not available", ""},
    {"Throttling", Code::kThrottled, kRetry, "the server asks to slow down", ""},
    {"ThrottlingException", Code::kThrottled, kRetry, "the server asks to slow down", ""},
    {"RequestLimitExceeded", Code::kThrottled, kRetry, "the server asks to slow down", ""},
    {"TooManyRequests", Code::kThrottled, kRetry, "the server asks to slow down", ""},
    {"BandwidthLimitExceeded", Code::kThrottled, kRetry, "the server asks to slow down", ""},
    {"RequestTimeout", Code::kTimeout, kRetry, "the server waited too long for the request", ""},
    {"InternalError", Code::kIo, kRetry, "the server has an internal error", ""},
    {"UserKeyMustBeSpecified", Code::kPermission, kFail, "the object is encrypted with a key of the customer", "Objects with SSE-C can't be read"},
};
// clang-format on

}  // namespace

ServerError read_s3_error(const Response& response) {
  ServerError error = error_by_status(response.status);
  error.request_id = response.header("x-amz-request-id");
  if (const auto xml = parse_xml(response.body); xml && xml->name == "Error") {
    error.server_code = xml->child_text("Code");
    error.server_message = xml->child_text("Message");
    if (error.request_id.empty()) error.request_id = xml->child_text("RequestId");
  }
  if (apply_known(kKnown, &error)) return error;
  if (response.status == 401) error.decision = RetryDecision::kRefresh;
  if (response.status == 400) {
    // Compatible stores have codes of their own, and describe the error in the message.
    const std::string words = lower(error.server_message);
    if (words.find("region") != std::string::npos) {
      error.code = Code::kCredentials;
      error.message = "the region is not the one that the server expects";
      error.hint = "Check AWS_REGION, or the region of the profile";
    } else if (words.find("token") != std::string::npos) {
      error.code = Code::kCredentials;
      error.message = "the server does not accept the session token";
      error.hint = "Check that AWS_SESSION_TOKEN is of this store and belongs to the access key";
    }
  }
  if (response.status >= 300 && response.status < 400 && response.status != 304) {
    error.message = "the server redirects to another endpoint";
    error.hint = "Check the endpoint and the region";
  }
  return error;
}

bool is_s3_response(const Response& response) {
  if (!response.header("x-amz-request-id").empty()) return true;
  if (!response.header("x-amz-bucket-region").empty()) return true;
  const auto xml = parse_xml(response.body);
  return xml && xml->name == "Error";
}

std::string region_in_response(const Response& response) {
  if (const std::string_view region = response.header("x-amz-bucket-region"); !region.empty()) {
    return std::string(region);
  }
  const auto xml = parse_xml(response.body);
  if (!xml || xml->name != "Error") return {};
  const std::string_view code = xml->child_text("Code");
  if (code != "AuthorizationHeaderMalformed" && code != "PermanentRedirect" &&
      code != "IllegalLocationConstraintException") {
    return {};
  }
  return std::string(xml->child_text("Region"));
}

}  // namespace streamer::http

#include "source/http/tls.h"

#include <unistd.h>

#include <cerrno>

namespace streamer::http {

Result<TrustStore> find_trust_store(const Settings& settings, SourceKind kind,
                                    const std::string& trust_file) {
  TrustStore store;
  const auto choose = [](const std::string& file, const char* name) -> Result<TrustStore> {
    if (::access(file.c_str(), R_OK) == 0) return TrustStore{file, ""};
    return Status::error(Code::kInvalid,
                         std::string("the file that ") + name + " names can't be read")
        .with_errno(errno)
        .with_path(file);
  };
  if (const auto file = settings.text("AWS_CA_BUNDLE"); file && kind == SourceKind::kS3) {
    return choose(*file, "AWS_CA_BUNDLE");
  }
  if (!trust_file.empty()) return choose(trust_file, "ca_bundle of the profile");
  if (const auto file = settings.text("SSL_CERT_FILE")) return choose(*file, "SSL_CERT_FILE");
  if (const auto directory = settings.text("SSL_CERT_DIR")) {
    store.directory = *directory;
    return store;
  }
  for (const char* file : {
           "/etc/ssl/certs/ca-certificates.crt",                 // Debian, Ubuntu, Arch
           "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  // RHEL, Fedora
           "/etc/pki/tls/certs/ca-bundle.crt",                   // older RHEL
           "/etc/ssl/ca-bundle.pem",                             // SUSE
           "/etc/ssl/cert.pem",                                  // Alpine
       }) {
    if (::access(file, R_OK) == 0) {
      store.file = file;
      return store;
    }
  }
  if (const auto file = settings.text("RUNAI_STREAMER_FALLBACK_CA_FILE")) {
    return choose(*file, "RUNAI_STREAMER_FALLBACK_CA_FILE");
  }
  if (::access("/etc/ssl/certs", R_OK | X_OK) == 0) store.directory = "/etc/ssl/certs";
  return store;
}

}  // namespace streamer::http

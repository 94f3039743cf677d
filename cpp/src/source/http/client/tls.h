// Certificates that servers are verified with.
#pragma once

#include <openssl/x509_vfy.h>

#include <memory>
#include <string>
#include <vector>

#include "base/settings.h"
#include "streamer/status.h"
#include "streamer/types.h"

namespace streamer::http {

struct TrustStore {
  std::string file;       // PEM bundle
  std::string directory;  // of hashed certificates; see directories_of()
};

// For S3 AWS_CA_BUNDLE, then `trust_file` of the protocol's own configuration, SSL_CERT_FILE and
// SSL_CERT_DIR, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, then the places of Debian, RHEL, SUSE and
// Alpine, then the file for systems that have none. kInvalid if a file that was asked for can't be
// read.
Result<TrustStore> find_trust_store(const Settings& settings, SourceKind kind,
                                    const std::string& trust_file);

// Those of `store`: SSL_CERT_DIR may name several, separated by colons.
std::vector<std::string> directories_of(const TrustStore& store);

// The certificates of `store`, parsed: that takes longer than a handshake, so that all connections
// of the process share them until the file changes. Directories that are not there are passed over.
// Null if nothing can be read. Thread-safe, and usable after a fork at any time.
std::shared_ptr<X509_STORE> load_certificates(const TrustStore& store);

}  // namespace streamer::http

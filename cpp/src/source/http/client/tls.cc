#include "source/http/client/tls.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <string_view>

#include "base/fork_lock.h"

namespace streamer::http {

Result<TrustStore> find_trust_store(const Settings& settings, SourceKind kind,
                                    const std::string& trust_file) {
  TrustStore store;
  const auto choose = [](const std::string& file, const char* name) -> Result<TrustStore> {
    if (::access(file.c_str(), R_OK) == 0) return TrustStore{file, ""};
    return Status::error(Code::kInvalid,
                         std::string("the file that ") + name + " names can't be read")
        .with_errno(errno)
        .with_path(file)
        .with_hint(std::string("Correct ") + name + ", or unset it");
  };
  if (const auto file = settings.text("AWS_CA_BUNDLE"); file && kind == SourceKind::kS3) {
    return choose(*file, "AWS_CA_BUNDLE");
  }
  if (!trust_file.empty()) return choose(trust_file, "ca_bundle of the profile");
  // As OpenSSL does, both are used. The names of other tools come after them.
  const auto directory = settings.text("SSL_CERT_DIR");
  for (const char* name : {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}) {
    const auto file = settings.text(name);
    if (!file || (directory && name != std::string_view("SSL_CERT_FILE"))) continue;
    struct stat info {};
    if (stat(file->c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {  // requests takes those, too
      store.directory = *file;
      return store;
    }
    Result<TrustStore> chosen = choose(*file, name);
    if (chosen.ok() && directory) chosen->directory = *directory;
    return chosen;
  }
  if (directory) {
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

std::vector<std::string> directories_of(const TrustStore& store) {
  std::vector<std::string> directories;
  std::string_view left = store.directory;
  while (!left.empty()) {
    const std::size_t end = std::min(left.find(':'), left.size());
    if (end > 0) directories.emplace_back(left.substr(0, end));
    left.remove_prefix(std::min(end + 1, left.size()));
  }
  return directories;
}

std::shared_ptr<X509_STORE> load_certificates(const TrustStore& store) {
  struct Loaded {
    ForkLock lock;
    std::string known;
    std::shared_ptr<X509_STORE> certificates;
  };
  static auto* const last = new Loaded;  // for threads that outlive static objects
  std::vector<std::string> places = directories_of(store);
  if (!store.file.empty()) places.push_back(store.file);
  std::string key;
  for (const std::string& place : places) {
    struct stat info {};
    if (stat(place.c_str(), &info) != 0) {
      if (place == store.file) return nullptr;
      continue;
    }
    key += place + '\n' + std::to_string(info.st_mtim.tv_sec) + '.' +
           std::to_string(info.st_mtim.tv_nsec) + '-' + std::to_string(info.st_size) + '-' +
           std::to_string(info.st_ino) + '\n';
  }
  if (key.empty()) return nullptr;
  const std::lock_guard lock(last->lock);
  if (last->certificates && key == last->known) return last->certificates;
  std::shared_ptr<X509_STORE> loaded(X509_STORE_new(), X509_STORE_free);
  const char* file = store.file.empty() ? nullptr : store.file.c_str();
  const char* directory = store.directory.empty() ? nullptr : store.directory.c_str();
  if (!loaded || X509_STORE_load_locations(loaded.get(), file, directory) != 1) return nullptr;
  // As libcurl sets them: an intermediate certificate may be trusted by itself.
  X509_STORE_set_flags(loaded.get(), X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_PARTIAL_CHAIN);
  last->known = key;
  last->certificates = loaded;
  return loaded;
}

}  // namespace streamer::http

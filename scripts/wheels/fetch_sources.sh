#!/usr/bin/env bash
# fetch_sources.sh DIRECTORY: downloads and unpacks libcurl and OpenSSL for wheels, as
# the distribution's source packages with its security patches, through the mirrors that apt is
# configured with (no deb-src line is needed). Debian or Ubuntu, no root.
set -euo pipefail
target=$(realpath -m "$1")
mkdir -p "$target/apt/lists/partial" "$target/apt/cache/archives/partial"
cd "$target"

# The configured repositories, as source repositories of our own.
# shellcheck disable=SC2016  # apt's own variables
apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  grep ' main$' | sort -u >apt/sources.list
[ -s apt/sources.list ] || { echo "apt knows no repository; run apt-get update first" >&2; exit 1; }
apt=(apt-get -qq -o Dir::Etc::SourceList="$target/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
     -o Dir::State::Lists="$target/apt/lists" -o Dir::Cache="$target/apt/cache"
     -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1)
"${apt[@]}" update
# The newest version that the mirrors still hold: a mirror may lag behind its own index.
fetch() {
  local version
  for version in $(apt_cache madison "$1" | awk '$NF == "Sources" {print $3}' | uniq); do
    if "${apt[@]}" source "$1=$version" >source.log 2>&1; then
      echo "$1 $version, the source package of the distribution" | tee "$1.version"
      return
    fi
  done
  cat source.log >&2
  return 1
}
apt_cache() { apt-cache "${apt[@]:2}" "$@"; }
for package in openssl curl; do
  [ -e "$package" ] && continue
  rm -rf "$package"-[0-9]*
  fetch "$package"
  mv "$package"-[0-9]*[0-9]*/ "$package"
done
rm -rf apt ./*.dsc ./*.tar.* ./*.asc source.log

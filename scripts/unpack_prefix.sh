#!/usr/bin/env bash
# unpack_prefix.sh DIR: Debian's -dev packages of libcurl and OpenSSL, and every library that they
# need down to the C library, unpacked below DIR without being installed: for -DSTREAMER_PREFIX=DIR,
# here or on a machine that can install nothing. Needs apt-get, and no root.
set -euo pipefail
prefix=$1
[[ ! -e $prefix/complete ]] || exit 0
rm -rf "$prefix"
mkdir -p "$prefix/packages"
mapfile -t names < <(
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances libcurl4-openssl-dev libssl-dev |
    grep -E '^(lib|zlib)' | grep -vE '^(libc6|libc6-dev|libgcc-s1|libc-bin|libcrypt)' | sort -u
)
(cd "$prefix/packages" && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "${names[@]}")
for package in "$prefix"/packages/*.deb; do dpkg -x "$package" "$prefix"; done
# Most of it is needed neither to build nor to run.
rm -rf "${prefix:?}/packages" "${prefix:?}"/usr/{share,bin,sbin} "${prefix:?}"/{bin,sbin,etc,var}
find "$prefix" -name '*.a' -delete
touch "$prefix/complete"

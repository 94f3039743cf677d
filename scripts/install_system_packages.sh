#!/usr/bin/env bash
# Installs the Debian packages listed in the files given, as root or by sudo, if any is missing.
set -euo pipefail

mapfile -t wanted < <(sed 's/#.*//' "$@" | tr -s ' \t' '\n' | sed '/^$/d')
missing=()
if command -v dpkg-query >/dev/null; then
  for package in "${wanted[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $status == installed ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -eq 0 ]] && exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "This is not a Debian system. Please install what these are called here, then go on:" >&2
  echo "  ${wanted[*]}" >&2
  exit 0
fi
as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || {
    echo "Missing packages: ${missing[*]}" >&2
    echo "Run as root, install sudo, or ask for: apt-get install ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
echo "Installing ${missing[*]}"
apt update
# apt-utils, which a bare system lacks, would only ask questions sooner.
apt install -y --no-install-recommends "${missing[@]}" >/dev/null \
  2> >(grep -v 'delaying package configuration, since apt-utils' >&2)

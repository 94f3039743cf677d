#!/usr/bin/env bash
# make_sysroot.sh DIRECTORY: a tree with the C library of an older release of the distribution (and the
# C++ library of this one, to be linked statically), so that programs built against it also run on
# systems of that age. Fetched through the mirrors that apt is configured with; no root.
set -euo pipefail
target=$(realpath -m "$1")
release=${SYSROOT_RELEASE:-bullseye}
[ -e "$target/.complete" ] && exit 0
rm -rf "$target"
mkdir -p "$target/.apt/lists/partial" "$target/.apt/cache/archives/partial" "$target/.debs"
# shellcheck disable=SC2016  # apt's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Component: main" |
  grep -v security | sed -n 1p)
echo "deb $mirror $release main" >"$target/.apt/sources.list"
touch "$target/.apt/status"
apt=(apt-get -qq -o Dir::Etc::SourceList="$target/.apt/sources.list"
     -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$target/.apt/lists"
     -o Dir::State::Status="$target/.apt/status" -o Dir::Cache="$target/.apt/cache"
     -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1)
"${apt[@]}" update
cd "$target/.debs"
"${apt[@]}" download libc6 libc6-dev linux-libc-dev libcrypt1 libcrypt-dev
# The compiler's own files are those of this system.
gcc=$(g++ -dumpversion | cut -d. -f1)
apt-get -qq download "libstdc++-$gcc-dev" "libgcc-$gcc-dev" libgcc-s1
for deb in *.deb; do dpkg-deb -x "$deb" "$target"; done
# Absolute links point into the system; make them point into the tree.
find "$target" -type l -lname '/*' | while read -r link; do
  ln -sfn "$(realpath -m --relative-to="$(dirname "$link")" "$target$(readlink "$link")")" "$link"
done
rm -rf "$target/.apt" "$target/.debs"
touch "$target/.complete"

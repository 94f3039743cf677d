# shellcheck shell=bash
# To be sourced from the root of the repository: makes static libcurl and OpenSSL for the C library
# of an older release, and sets `work`, `deps` and `sysroot` (absolute), and the compilers' flags.
work=$(realpath -m .cache/wheels)
mkdir -p "$work"
[ -d "$work/sources/curl" ] || scripts/wheels/fetch_sources.sh "$work/sources"
sysroot=$work/sysroot
scripts/wheels/make_sysroot.sh "$sysroot"
SYSROOT=$sysroot scripts/wheels/build_deps.sh "$work/sources" "$work/deps"
# shellcheck disable=SC2034  # of the script that sources this one
deps=$work/deps
# -L, since the compiler searches the system's directories before the tree's.
multiarch=$(gcc -print-multiarch)
export CFLAGS="--sysroot=$sysroot" CXXFLAGS="--sysroot=$sysroot"
LDFLAGS="--sysroot=$sysroot -L$sysroot/usr/lib/$multiarch -Wl,-rpath-link,$sysroot/lib/$multiarch"
export LDFLAGS

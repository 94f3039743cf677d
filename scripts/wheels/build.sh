#!/usr/bin/env bash
# build.sh: a wheel for this Python and this machine's processor, into dist/, with libcurl and OpenSSL
# linked statically and for the C library of an older release. Debian or Ubuntu; no root.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PY:-python3}
work=.cache/wheels
mkdir -p "$work" dist
[ -d "$work/sources/curl" ] || scripts/wheels/fetch_sources.sh "$work/sources"
sysroot=$(realpath -m "$work/sysroot")
scripts/wheels/make_sysroot.sh "$sysroot"
# Debian's Python keeps a part of its headers where the sysroot hides them.
headers=$(gcc -print-multiarch)/$(basename "$("$python" -c "import sysconfig; print(sysconfig.get_path('include'))")")
if [ -d "/usr/include/$headers" ]; then
  mkdir -p "$sysroot/usr/include/$headers"
  cp -r "/usr/include/$headers/." "$sysroot/usr/include/$headers"
fi
SYSROOT=$sysroot scripts/wheels/build_deps.sh "$work/sources" "$work/deps"
deps=$(realpath "$work/deps")

rm -rf "$work/plain"
# -L, since the compiler searches the system's folders before the tree's.
libraries=$sysroot/usr/lib/$(gcc -print-multiarch)
export CFLAGS="--sysroot=$sysroot" CXXFLAGS="--sysroot=$sysroot"
LDFLAGS="--sysroot=$sysroot -L$libraries -Wl,-rpath-link,$sysroot/lib/$(gcc -print-multiarch)"
export LDFLAGS
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/plain" . \
  --config-settings=build-dir="build/wheel-{wheel_tag}" \
  --config-settings=cmake.define.STREAMER_STATIC_RUNTIME=ON \
  --config-settings=cmake.define.CURL_DIR="$deps/lib/cmake/CURL" \
  --config-settings=cmake.define.OPENSSL_ROOT_DIR="$deps" \
  --config-settings=cmake.define.OPENSSL_USE_STATIC_LIBS=ON \
  --config-settings=install.strip=true
unset CFLAGS CXXFLAGS LDFLAGS
PATH=$(dirname "$("$python" -c "import sys; print(sys.executable)")"):$PATH "$python" -m auditwheel repair --wheel-dir dist "$work"/plain/*.whl
ls -l dist

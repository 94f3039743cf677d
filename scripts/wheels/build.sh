#!/usr/bin/env bash
# build.sh: a wheel for this Python and this machine's processor, into dist/, with libcurl and OpenSSL
# linked statically and for the C library of an older release. Debian or Ubuntu; no root.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PY:-python3}
mkdir -p dist
# shellcheck source=scripts/wheels/static_deps.sh
. scripts/wheels/static_deps.sh
# Debian's Python keeps a part of its headers in a place that the sysroot hides.
headers=$multiarch/$(basename "$("$python" -c "import sysconfig; print(sysconfig.get_path('include'))")")
if [ -d "/usr/include/$headers" ]; then
  mkdir -p "$sysroot/usr/include/$headers"
  cp -r "/usr/include/$headers/." "$sysroot/usr/include/$headers"
fi

rm -rf "$work/plain"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/plain" . \
  --config-settings=build-dir="build/wheel-{wheel_tag}" \
  --config-settings=cmake.define.STREAMER_STATIC_RUNTIME=ON \
  --config-settings=cmake.define.CURL_DIR="$deps/lib/cmake/CURL" \
  --config-settings=cmake.define.OPENSSL_ROOT_DIR="$deps" \
  --config-settings=cmake.define.OPENSSL_USE_STATIC_LIBS=ON \
  --config-settings=cmake.define.STREAMER_LICENSES="$deps/licenses" \
  --config-settings=install.strip=true
unset CFLAGS CXXFLAGS LDFLAGS
PATH=$(dirname "$("$python" -c "import sys; print(sys.executable)")"):$PATH "$python" -m auditwheel repair --wheel-dir dist "$work"/plain/*.whl
ls -l dist

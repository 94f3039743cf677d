#!/usr/bin/env bash
# sdk.sh: dist/runai-model-streamer-sdk-VERSION-linux-ARCH.tar.gz and its SHA-256: the library with
# libcurl and OpenSSL linked statically, for the C library of an older release, its headers, the CMake
# packages and the pkg-config modules. Debian or Ubuntu; no root.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/wheels/static_deps.sh
. scripts/wheels/static_deps.sh
version=$(sed -n 's/^project(model_streamer VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
name=runai-model-streamer-sdk-$version-linux-$(uname -m)
stage=$work/sdk
rm -rf "$stage"
cmake -S . -B build/sdk -G Ninja -DCMAKE_BUILD_TYPE=Release -DSTREAMER_PYTHON=OFF \
  -DSTREAMER_STATIC_RUNTIME=ON -DCURL_DIR="$deps/lib/cmake/CURL" -DOPENSSL_ROOT_DIR="$deps" \
  -DOPENSSL_USE_STATIC_LIBS=ON -DSTREAMER_LICENSES="$deps/licenses" -DCMAKE_INSTALL_LIBDIR=lib >"$work/sdk.log" ||
  { cat "$work/sdk.log" >&2; exit 1; }
cmake --build build/sdk --target streamer -- --quiet
cmake --install build/sdk --prefix "$stage/$name" --strip >>"$work/sdk.log"
install -D -m 644 LICENSE "$stage/$name/LICENSE"
install -D -m 644 docs/guides/embedding.md "$stage/$name/README.md"
install -D -m 644 examples/c/restore.c "$stage/$name/examples/restore.c"
mkdir -p dist
# The same bytes from the same sources.
tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner --mtime='1980-01-01 00:00Z' \
  -czf "dist/$name.tar.gz" "$name"
(cd dist && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
ls -l "dist/$name.tar.gz"

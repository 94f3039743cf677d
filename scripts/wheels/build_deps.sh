#!/usr/bin/env bash
# build_deps.sh SOURCES PREFIX: builds the unpacked SOURCES/openssl and SOURCES/curl into static
# libraries in PREFIX. Only code that HTTPS needs is in them. CFLAGS is honoured, and SYSROOT is the
# tree of the C library. PREFIX/licenses gets the licences of all that a wheel links statically.
set -euo pipefail
sources=$(realpath "$1")
prefix=$(realpath -m "$2")
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
flags="-O2 -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections ${CFLAGS:-}"
[ -z "${SYSROOT:-}" ] || flags="$flags --sysroot=$SYSROOT"
mkdir -p "$prefix"

case $(uname -m) in
  x86_64) platform=linux-x86_64 ;;
  aarch64) platform=linux-aarch64 ;;
  *) platform=linux-generic64 ;;
esac
if [ ! -e "$prefix/lib/libcrypto.a" ]; then
  build=$(mktemp -d)
  cp -a "$sources/openssl/." "$build"
  (
    cd "$build"
    # CA files are found by the library itself; the directory is only the last resort.
    # shellcheck disable=SC2086  # flags are words
    CC="${CMAKE_C_COMPILER_LAUNCHER:+$CMAKE_C_COMPILER_LAUNCHER }${CC:-gcc}" ./Configure "$platform" --prefix="$prefix" --libdir=lib --openssldir=/etc/ssl \
      no-shared no-tests no-legacy no-engine no-dynamic-engine no-module no-comp no-ssl3 no-tls1 \
      no-tls1_1 no-dtls no-srp no-psk no-gost no-idea no-seed no-camellia no-aria no-bf no-cast \
      no-rc2 no-rc4 no-des no-md4 no-mdc2 no-whirlpool no-rmd160 no-sm2 no-sm3 no-sm4 no-siphash \
      no-blake2 no-scrypt no-ocb no-cms no-ts no-ct no-cmp no-ui-console no-autoload-config \
      $flags >configure.log || { cat configure.log >&2; exit 1; }
    make -j"$jobs" build_libs >make.log 2>&1 || { tail -40 make.log >&2; exit 1; }
    make install_dev >/dev/null
  )
  rm -rf "$build"
fi

if [ ! -e "$prefix/lib/libcurl.a" ]; then
  build=$(mktemp -d)
  cmake -S "$sources/curl" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS="$flags" \
    ${SYSROOT:+-DCMAKE_SYSROOT="$SYSROOT"} \
    -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_PREFIX_PATH="$prefix" \
    -DOPENSSL_ROOT_DIR="$prefix" -DOPENSSL_USE_STATIC_LIBS=ON -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
    -DBUILD_SHARED_LIBS=OFF -DBUILD_CURL_EXE=OFF -DBUILD_TESTING=OFF -DENABLE_MANUAL=OFF \
    -DHTTP_ONLY=ON -DCURL_USE_OPENSSL=ON -DCURL_ZLIB=OFF -DCURL_BROTLI=OFF -DCURL_ZSTD=OFF \
    -DUSE_NGHTTP2=OFF -DUSE_LIBIDN2=OFF -DCURL_USE_LIBPSL=OFF -DCURL_USE_LIBSSH2=OFF \
    -DCURL_USE_LIBSSH=OFF -DCURL_USE_GSSAPI=OFF -DCURL_DISABLE_CRYPTO_AUTH=ON -DCURL_DISABLE_NTLM=ON \
    -DENABLE_UNIX_SOCKETS=OFF -DCURL_CA_BUNDLE=none -DCURL_CA_PATH=none >"$build/log" ||
    { cat "$build/log" >&2; exit 1; }
  cmake --build "$build" -j"$jobs" --target install >"$build/log" 2>&1 ||
    { tail -40 "$build/log" >&2; exit 1; }
  rm -rf "$build"
fi

# licence NAME TEXT: the licence in the file TEXT, after a line that names its library.
licence() {
  { cat "$sources/$1.version" 2>/dev/null || echo "$1"; echo; cat "$2"; } >"$prefix/licenses/$1.txt"
}
mkdir -p "$prefix/licenses"
licence openssl "$sources/openssl/LICENSE.txt"
licence curl "$sources/curl/COPYING"
# GCC's own libraries: on Debian the text is beside libstdc++, on RHEL beside libgcc.
for text in "/usr/share/doc/libstdc++-$("${CXX:-g++}" -dumpversion | cut -d. -f1)-dev/copyright" \
  /usr/share/licenses/libgcc/COPYING.RUNTIME; do
  [ ! -e "$text" ] || licence libstdc++ "$text"
done
[ -e "$prefix/licenses/libstdc++.txt" ] || { echo "found no licence of libstdc++" >&2; exit 1; }
ls -l "$prefix"/lib/*.a

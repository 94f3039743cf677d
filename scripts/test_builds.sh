#!/usr/bin/env bash
# test_builds.sh: the two builds for machines without libcurl's and OpenSSL's -dev packages: without
# object storage, and with packages that are unpacked below a directory.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/builds
launcher=$(command -v ccache || true)
configure() { # directory, arguments
  local directory=$1
  shift
  # The type of the other builds: their objects are in the cache of the compiler.
  cmake -G Ninja -S . -B "$build/$directory" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_CXX_COMPILER_LAUNCHER="$launcher" -DCMAKE_C_COMPILER_LAUNCHER="$launcher" "$@" >/dev/null
}
fail() {
  echo "$*" >&2
  exit 1
}
needs() { objdump -p "$1" | awk '$1 == "NEEDED" {print $2}'; }

echo "Without object storage"
configure without -DSTREAMER_OBJECT_STORAGE=OFF -DSTREAMER_TESTS=ON
cmake --build "$build/without" --target streamer abi_tests cuda_tests standin_hip -- --quiet
if needs "$build/without/cpp/libstreamer.so" | grep -E 'curl|crypto|ssl'; then
  fail "a build without object storage needs these libraries"
fi
"$build/without/tests/cpp/cuda/cuda_tests" --gtest_brief=1
"$build/without/tests/abi/abi_tests" --gtest_brief=1

echo "With unpacked packages"
prefix=$PWD/$build/packages
scripts/unpack_prefix.sh "$prefix"
configure prefix --fresh -DSTREAMER_PREFIX="$prefix"
for variable in CURL_INCLUDE_DIR OPENSSL_INCLUDE_DIR CURL_LIBRARY_RELEASE OPENSSL_CRYPTO_LIBRARY; do
  grep -q "^$variable:[A-Z]*=$prefix" "$build/prefix/CMakeCache.txt" ||
    fail "$variable is not below the prefix"
done
if grep -oE '[^ ]*/lib(curl|ssl|crypto)\.[^ ]*' "$build/prefix/build.ninja" | grep -v "^$prefix"; then
  fail "these are linked from outside of the prefix"
fi
cmake --build "$build/prefix" --target streamer -- --quiet
library=$build/prefix/cpp/libstreamer.so
ldd "$library" | grep -E 'libcurl|libcrypto|libnghttp2' | while read -r line; do
  [[ $line == *"$prefix"* ]] || fail "found outside of the prefix: $line"
done
[[ $(ldd "$library") == *libcurl* ]] || fail "libstreamer.so does not use libcurl"
python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$library"
echo "The package for a machine with a GPU"
python=$PWD/.venv/bin/python
CMAKE_CXX_COMPILER_LAUNCHER=$launcher PYTHON=$python STEPS=build scripts/gpu_machine.sh
PYTHONPATH=$PWD/build/gpu/site "$python" -m pytest -q tests/python/cuda/test_gpu.py -k "limits or module"
echo "Both builds work."

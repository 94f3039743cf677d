#!/usr/bin/env bash
# gpu_machine.sh: builds, tests and measures on a machine with a GPU where nothing can be installed.
#
# Needs what comes with PyTorch images: python3 with torch, pybind11, scikit-build-core, CMake, pytest
# and safetensors; a C++ compiler. Settings, all from the environment:
#   PYTHON   the interpreter (python3)
#   PREFIX   a folder with unpacked -dev packages of libcurl and OpenSSL (docs/gpu.md); without it
#            object storage is left out
#   WHEELS   a folder with wheels of the peers: instanttensor, runai_model_streamer, safetensors,
#            fastsafetensors; without it only this package is measured
#   ARGS     more arguments for benchmarks.gpu, e.g. "--gigabytes 16 --rounds 5 --data /mnt/nvme"
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
site=$PWD/build/gpu/site
options=(-DSTREAMER_OBJECT_STORAGE=OFF)
[[ -n ${PREFIX:-} ]] && options=(-DSTREAMER_PREFIX="$(realpath "$PREFIX")")

echo "Building and installing into build/gpu"
defines=()
for option in "${options[@]}"; do defines+=("--config-settings=cmake.define.${option#-D}"); done
rm -rf "$site"
"$PYTHON" -m pip install -q --no-index --no-deps --no-build-isolation --no-compile --target "$site" \
  --config-settings=build-dir=build/gpu/python "${defines[@]}" .
cmake -S . -B build/gpu/plain -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSTREAMER_BENCHMARKS=ON \
  "${options[@]}" >/dev/null
cmake --build build/gpu/plain --target raw_reader -j "$(nproc)" >/dev/null
export PYTHONPATH=$site PYTHONDONTWRITEBYTECODE=1
export BENCH_RAW_READER=$PWD/build/gpu/plain/benchmarks/raw_reader

echo "Tests on the GPU, and on the stand-in driver"
"$PYTHON" -m pytest -q -p no:cacheprovider tests/gpu tests/python/cuda

echo "Benchmark"
arguments=()
if [[ -n ${WHEELS:-} ]]; then
  arguments+=(--wheels "$WHEELS")
else
  arguments+=(--loaders ours)
fi
# shellcheck disable=SC2206
arguments+=(${ARGS:-})
"$PYTHON" -m benchmarks.gpu "${arguments[@]}"

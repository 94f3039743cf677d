#!/usr/bin/env bash
# gpu_machine.sh: builds, tests and measures on a machine with a GPU where nothing can be installed.
#
# Needs the parts of PyTorch images: python3 with pip, torch, numpy, pybind11, scikit-build-core,
# CMake, pytest and safetensors; a C++ compiler. Settings, all from the environment:
#   PYTHON   the interpreter (python3)
#   STEPS    of "build test bench", those to do; builds stay in build/gpu (all three)
#   PREFIX   a directory made by scripts/unpack_prefix.sh, with libcurl and OpenSSL; without it object
#            storage is left out, and with it the row that loads over http
#   WHEELS   a directory with wheels for this Python: the peers instanttensor, runai_model_streamer,
#            safetensors and fastsafetensors (without it only this package is measured), those
#            of numpy, pytest and safetensors that Python lacks, and missing needs of the peers
#            (humanize, typer)
#   OUT      a directory that gets copies of the results
#   ARGS     more arguments for benchmarks.gpu, e.g. "--gigabytes 16 --rounds 5 --data /mnt/nvme";
#            "--standin" tries all of this without a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
STEPS=${STEPS:-build test bench}
site=$PWD/build/gpu/site
lacking=$PWD/build/gpu/wheels
options=(-DSTREAMER_OBJECT_STORAGE=OFF)
[[ -n ${PREFIX:-} ]] &&
  options=(-DSTREAMER_OBJECT_STORAGE=ON -DSTREAMER_PREFIX="$(realpath "$PREFIX")")
wanted() { [[ " $STEPS " == *" $1 "* ]]; }

# The places of NVIDIA's header.
cuda_headers() {
  local packages
  packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  ls -d "${CUDA_HOME:-/usr/local/cuda}"/include/cuda.h /usr/include/cuda.h \
    "$packages"/nvidia/cu*/include/cuda.h 2>/dev/null || true
}

if wanted build; then
  echo "Building and installing into build/gpu"
  defines=()
  for option in "${options[@]}"; do defines+=("--config-settings=cmake.define.${option#-D}"); done
  rm -rf "$site" "$lacking"
  mkdir -p "$lacking"
  "$PYTHON" -m pip install -q --no-index --no-deps --no-build-isolation --no-compile \
    --target "$site" --config-settings=build-dir=build/gpu/python "${defines[@]}" .
  cmake -S . -B build/gpu/plain -DCMAKE_BUILD_TYPE=Release -DSTREAMER_BENCHMARKS=ON \
    "${options[@]}" >/dev/null
  cmake --build build/gpu/plain --target raw_reader -j "$(nproc)" >/dev/null
  for package in numpy pytest safetensors; do
    "$PYTHON" -c "import $package" 2>/dev/null && continue
    "$PYTHON" -m pip install -q --no-index --find-links "${WHEELS:?has to have $package}" \
      --target "$lacking" "$package"
  done
  header=$(cuda_headers | sed -n 1p)
  if [[ -n $header ]]; then
    echo "The table of the driver's functions against $header"
    "${CXX:-c++}" -std=c++20 -fsyntax-only -I cpp/src -I cpp/include -I "${header%/cuda.h}" \
      tests/support/cuda_standin/driver_abi.cc
  fi
fi
export PYTHONPATH=$site:$lacking PYTHONDONTWRITEBYTECODE=1
export BENCH_RAW_READER=$PWD/build/gpu/plain/benchmarks/raw_reader
status=0

if wanted test; then
  echo "Tests on the GPU, and on the stand-in driver"
  # The other figures are wanted even if one fails.
  "$PYTHON" -m pytest -q -p no:cacheprovider tests/python/cuda || status=$?
fi

if wanted bench; then
  echo "Benchmark"
  arguments=()
  if [[ -n ${WHEELS:-} ]]; then
    arguments+=(--wheels "$WHEELS")
  else
    arguments+=(--loaders ours)
  fi
  # shellcheck disable=SC2206
  arguments+=(${ARGS:-})
  "$PYTHON" -m benchmarks.gpu "${arguments[@]}" || status=$?
  if [[ -n ${OUT:-} ]]; then
    mkdir -p "$OUT"
    cp docs/benchmarks.md "$OUT"
    for result in benchmarks/results/gpu.* benchmarks/results/raw/gpu.json; do
      [[ -e $result ]] || continue
      cp "$result" "$OUT/$(sed 's|benchmarks/results/||; s|/|-|' <<<"$result")"
    done
  fi
fi
exit "$status"

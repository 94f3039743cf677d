#!/usr/bin/env bash
# fuzz.sh SECONDS: random input for about that long in all, in equal parts for each libFuzzer
# target of tests/fuzz and for the Python tests that are marked `fuzz`.
set -euo pipefail
seconds=$1
python=${PY:-python3}

CMAKE_CXX_COMPILER_LAUNCHER=$(command -v ccache || true) cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target fuzzers -- --quiet
targets=()
for source in tests/fuzz/fuzz_*.cc; do targets+=("build/fuzz/tests/fuzz/$(basename "$source" .cc)"); done
share=$((seconds / (${#targets[@]} + 1)))
for target in "${targets[@]}"; do
  name=$(basename "$target")
  corpus=.cache/fuzz/$name
  mkdir -p "$corpus"
  seeds=tests/fuzz/corpus/${name#fuzz_}
  [ -d "$seeds" ] || { echo "$name has no corpus in $seeds" >&2; exit 1; }
  echo "$name, $share s"
  "$target" -max_total_time="$share" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$corpus-" "$corpus" "$seeds" 2>&1 | tail -n 12
done
FUZZ_SECONDS=$share "$python" -m pytest -q -m fuzz

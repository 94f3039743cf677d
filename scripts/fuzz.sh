#!/usr/bin/env bash
# fuzz.sh SECONDS: random input for about that long in all: the libFuzzer targets, if there are
# any, and the Python tests that are marked `fuzz`.
set -euo pipefail
seconds=$1
python=${PY:-python3}
shopt -s nullglob

targets=()
if compgen -G 'tests/fuzz/*.cc' >/dev/null; then
  CMAKE_CXX_COMPILER_LAUNCHER=$(command -v ccache || true) cmake --preset fuzz >/dev/null
  cmake --build --preset fuzz -- --quiet
  targets=(build/fuzz/tests/fuzz/fuzz_*)
fi
share=$((seconds / (${#targets[@]} + 1)))
[[ $share -gt 0 ]] || share=1
for target in "${targets[@]}"; do
  [[ -f $target && -x $target ]] || continue
  name=$(basename "$target")
  corpus=.cache/fuzz/$name
  mkdir -p "$corpus"
  echo "$name, $share s"
  "$target" -max_total_time="$share" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$corpus-" "$corpus" 2>&1 | tail -n 12
done
rc=0
FUZZ_SECONDS=$share "$python" -m pytest -q -m fuzz || rc=$?
[[ $rc -eq 5 && ${#targets[@]} -gt 0 ]] && rc=0  # no such tests: the targets were all
exit "$rc"

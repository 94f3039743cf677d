#!/usr/bin/env bash
# build_all.sh PYTHON...: a wheel for each interpreter into dist/, each tried in a clean virtual
# environment, with torch unless TORCH is none. Debian or Ubuntu; no root.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(realpath -m .cache/wheels)
mkdir -p "$work" dist
declare -A tried
for python in "$@"; do
  tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  echo "==> $tag, $("$python" --version)"
  environment=$work/venv-$tag
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
  "$environment/bin/python" -m pip install -qq 'pip>=25.1'
  "$environment/bin/python" -m pip install -qq --group wheel
  rm -f dist/*-"$tag"-*.whl
  PY=$environment/bin/python scripts/wheels/build.sh
  wheel=$(ls dist/*-"$tag"-*.whl)
  python3 -m scripts.wheels.check "$wheel"
  # torch is gigabytes: one environment at a time.
  trial=$work/trial
  rm -rf "$trial"
  "$python" -m venv "$trial"
  if [ "${TORCH:-}" = none ]; then
    "$trial/bin/python" -m pip install -qq numpy
    "$trial/bin/python" -m pip install -qq --no-deps "$wheel"
  else
    "$trial/bin/python" -m pip install -qq "$wheel"
  fi
  said=$(cd / && "$trial/bin/python" "$OLDPWD/scripts/wheels/smoke.py")
  echo "$said"
  tried[$tag]=${said##*, with }
  rm -rf "$trial"
done
for tag in "${!tried[@]}"; do echo "$tag: built and tried with ${tried[$tag]}"; done | sort

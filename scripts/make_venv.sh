#!/usr/bin/env bash
# make_venv.sh DIR: a virtual environment with the torch of pyproject.toml.
# PYTHON chooses the interpreter; by default Debian's own if it is new enough, else `python3`.
# TORCH=cpu takes the torch without CUDA, from TORCH_INDEX (by default that of PyTorch).
set -euo pipefail

dir=$(realpath -m "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
new_enough() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
  if new_enough "$candidate"; then
    python=$candidate
    break
  fi
done
[[ -n $python ]] || { echo "No Python 3.10 or newer with venv was found; set PYTHON=..." >&2; exit 1; }
if ! "$dir/bin/python" -c '' 2>/dev/null; then
  rm -rf "$dir"
  echo "Making $dir with $("$python" --version)"
  "$python" -m venv "$dir"
fi
# Dependency groups need pip 25.1.
"$dir/bin/python" -m pip install -qq 'pip>=25.1'
cd "$root"
if [[ ${TORCH:-} == cpu ]]; then
  export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:+$PIP_EXTRA_INDEX_URL }${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"
fi
exec "$dir/bin/python" -m pip install -qq --group "${TORCH_GROUP:-torch}"

#!/usr/bin/env bash
# pytest_halves.sh PYTHON: the Python tests in two processes at once, since most of them wait: those
# of object storage, whose output comes at the end, and all others.
set -uo pipefail
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
storage=tests/python/object_storage
others=()
for path in tests/python/*; do
  case $path in
    "$storage" | *__pycache__ | */__init__.py) ;;
    *) others+=("$path") ;;
  esac
done
"$python" -m pytest -m "not fuzz" --basetemp="$work/storage" "$storage" >"$work/storage.log" 2>&1 &
storage_tests=$!
"$python" -m pytest -m "not fuzz" --basetemp="$work/others" "${others[@]}"
failed=$?
wait "$storage_tests" || failed=$?
cat "$work/storage.log"
exit "$failed"

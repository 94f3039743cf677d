#!/usr/bin/env bash
# pytest_parts.sh PYTHON: the Python tests in three processes at once, since most of them wait. The
# output of each process comes when it and those before it have ended.
set -uo pipefail
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
others=()
for path in tests/python/*; do
  case $path in
    tests/python/object_storage | tests/python/local | *__pycache__ | */__init__.py) ;;
    *) others+=("$path") ;;
  esac
done

names=() processes=()
part() {  # NAME PATH...
  names+=("$1")
  "$python" -m pytest -m "not fuzz" --basetemp="$work/$1" "${@:2}" >"$work/$1.log" 2>&1 &
  processes+=("$!")
}
part storage tests/python/object_storage
part local tests/python/local
part others "${others[@]}"

failed=0
for i in "${!names[@]}"; do
  wait "${processes[i]}" || failed=$?
  cat "$work/${names[i]}.log"
done
exit "$failed"

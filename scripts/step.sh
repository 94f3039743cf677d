#!/usr/bin/env bash
# step.sh TITLE COMMAND...: prints the title, runs the command, prints its result and its time.
set -uo pipefail
title=$1
shift
printf '\n==> %s\n' "$title"
start=$SECONDS
"$@"
rc=$?
if [[ $rc -eq 0 ]]; then
  printf '<== %s: ok, %d s\n' "$title" $((SECONDS - start))
else
  printf '<== %s: FAILED (exit status %d), %d s\n' "$title" "$rc" $((SECONDS - start)) >&2
fi
exit "$rc"

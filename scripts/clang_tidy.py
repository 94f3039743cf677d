#!/usr/bin/env python3
"""Runs clang-tidy on the C++ sources of a build directory, only on what changed since it passed.

A source counts as changed when it, any header of the tree, its command or the checks changed.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSED = ROOT / ".cache" / "tidy"
TOOL = os.environ.get("CLANG_TIDY", "clang-tidy-14")
DIRECTORIES = ("cpp", "benchmarks", "examples")


def digest(*parts: bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
        state.update(b"\0")
    return state.hexdigest()


def check(build: str, source: Path) -> tuple[Path, int, str]:
    done = subprocess.run(
        [TOOL, "--quiet", "-p", build, str(source)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    shown = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return source, done.returncode, shown.strip()


def main() -> int:
    build = sys.argv[1]
    commands = json.loads((ROOT / build / "compile_commands.json").read_text())
    headers = sorted(p for directory in DIRECTORIES for p in (ROOT / directory).rglob("*.h"))
    common = digest((ROOT / ".clang-tidy").read_bytes(), *(p.read_bytes() for p in headers))
    PASSED.mkdir(parents=True, exist_ok=True)
    todo: dict[Path, Path] = {}
    seen = 0
    for entry in commands:
        source = Path(entry["directory"], entry["file"]).resolve()
        if not any(source.is_relative_to(ROOT / directory) for directory in DIRECTORIES):
            continue
        seen += 1
        key = digest(common.encode(), source.read_bytes(), entry["command"].encode())
        if not (PASSED / key).exists():
            todo[source] = PASSED / key
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, rc, text in pool.map(lambda s: check(build, s), sorted(todo)):
            if rc == 0 and not text:
                todo[source].touch()
            else:
                failed += 1
                print(text, flush=True)
    print(f"clang-tidy: {seen} sources, {len(todo)} checked, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

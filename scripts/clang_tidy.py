#!/usr/bin/env python3
"""Runs clang-tidy on the C++ sources of a build directory, only on what changed since it passed.

A source counts as changed when it, any header of the tree, its command or the checks changed.
clang-tidy takes longest for the standard library's headers. Sources of one directory are therefore
checked as one that includes them. Where that finds anything, such as a name that two of them
define, each half is checked as one, and so on. Only what is found in a source alone counts.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSED = ROOT / ".cache" / "tidy"
TOOL = os.environ.get("CLANG_TIDY", "clang-tidy-14")
DIRECTORIES = ("cpp", "benchmarks", "examples")
TOGETHER = 8
"""Sources that are checked as one."""
ALONE = re.compile(rb"^\s*using [\w:]+;", re.MULTILINE)
"""What a check looks for only in the source that it is given: misc-unused-using-decls."""


def digest(*parts: bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
        state.update(b"\0")
    return state.hexdigest()


@dataclass(frozen=True)
class Source:
    path: Path
    directory: str
    options: tuple[str, ...]
    passed: Path
    """A file that is there if it passed."""


def options_of(command: str) -> tuple[str, ...]:
    """What the compiler's command says apart from the compiler, the source and the object."""
    words = shlex.split(command)
    first = next(i for i, word in enumerate(words) if word.startswith("-"))
    words = words[first:]
    for name in ("-o", "-c"):
        at = words.index(name)
        del words[at : at + 2]
    return tuple(words)


def check(path: Path, source: Source) -> str:
    """What clang-tidy finds in the file `path`, compiled as `source` is."""
    done = subprocess.run(
        [
            TOOL,
            "--quiet",
            f"--header-filter={ROOT}/({'|'.join(DIRECTORIES)})/.*",
            str(path),
            "--",
            *source.options,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=source.directory,
    )
    return (done.stdout + (done.stderr if done.returncode != 0 else "")).strip()


def groups(sources: list[Source]) -> list[list[Source]]:
    """Sources of one directory with the same options, at most TOGETHER of them."""
    alike: dict[tuple[object, ...], list[Source]] = defaultdict(list)
    made = []
    for source in sources:
        if ALONE.search(source.path.read_bytes()):
            made.append([source])
        else:
            alike[source.path.parent, source.directory, source.options].append(source)
    for members in alike.values():
        parts = -(-len(members) // TOGETHER)
        made += [members[part::parts] for part in range(parts)]
    return sorted(made, key=len, reverse=True)


def findings(group: list[Source], build: Path) -> list[str]:
    """What is found in sources, each text once; those without findings have passed."""
    if len(group) > 1:
        name = digest(*(str(source.path).encode() for source in group))[:16]
        together = build / "tidy" / f"{name}.cc"
        together.parent.mkdir(exist_ok=True)
        mark = "// NOLINT(bugprone-suspicious-include)"
        lines = [f'#include "{source.path}"  {mark}\n' for source in group]
        together.write_text("".join(lines))
        if not check(together, group[0]):
            for source in group:
                source.passed.touch()
            return []
        return findings(group[0::2], build) + findings(group[1::2], build)
    text = check(group[0].path, group[0])
    if text:
        return [text]
    group[0].passed.touch()
    return []


def main() -> int:
    build = ROOT / sys.argv[1]
    commands = json.loads((build / "compile_commands.json").read_text())
    headers = sorted(p for directory in DIRECTORIES for p in (ROOT / directory).rglob("*.h"))
    common = digest((ROOT / ".clang-tidy").read_bytes(), *(p.read_bytes() for p in headers))
    PASSED.mkdir(parents=True, exist_ok=True)
    todo: dict[Path, Source] = {}
    seen = 0
    for entry in commands:
        path = Path(entry["directory"], entry["file"]).resolve()
        if not any(path.is_relative_to(ROOT / directory) for directory in DIRECTORIES):
            continue
        seen += 1
        options = options_of(entry["command"])
        key = digest(common.encode(), path.read_bytes(), " ".join(options).encode())
        if not (PASSED / key).exists():
            todo[path] = Source(path, entry["directory"], options, PASSED / key)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda group: findings(group, build), groups([*todo.values()])):
            failed += len(found)
            for text in found:
                print(text, flush=True)
    print(f"clang-tidy: {seen} sources, {len(todo)} checked, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

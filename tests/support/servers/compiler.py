"""Small programs and libraries in C++ that tests need, built once into the cache."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess

from .process import CACHE, Unavailable


def build(source: pathlib.Path, *flags: str) -> pathlib.Path:
    text = source.read_bytes() + " ".join(flags).encode()
    program = CACHE / f"{source.stem}-{hashlib.sha256(text).hexdigest()[:12]}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            raise Unavailable(f"{source.name} needs a C++ compiler")
        partial = program.with_suffix(f".{os.getpid()}")
        command = [compiler, "-std=c++20", "-O2", *flags, "-o", str(partial), str(source)]
        subprocess.run(command, check=True)
        partial.replace(program)
    return program

"""What CMake says on a machine that lacks compilers or libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")


def configure(directory: Path, *options: str, **environment: str) -> str:
    """The text of a configuration that fails, on one line."""
    command = ["cmake", "-S", str(ROOT), "-B", str(directory), *options]
    env = {**os.environ, **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("CMake Error") == 1, done.stderr
    return re.sub(r"\s+", " ", done.stderr)


def without(*packages: str) -> list[str]:
    return [f"-DCMAKE_DISABLE_FIND_PACKAGE_{package}=ON" for package in packages]


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    options = [*without("CURL", "OpenSSL", "Python"), "-DSTREAMER_PYTHON=ON"]
    text = configure(tmp_path, *options)
    assert "apt-get install libcurl4-openssl-dev libssl-dev python3-dev RHEL" in text
    assert "dnf install libcurl-devel openssl-devel python3-devel Without" in text
    assert "cmake.define.STREAMER_OBJECT_STORAGE=OFF" in text
    assert "with headers (that of RHEL 9 is older) OpenSSL" in text
    assert "docs/guides/install.md" in text


def test_what_is_left_out_is_not_asked_for(tmp_path: Path) -> None:
    options = [*without("CURL", "OpenSSL", "Python"), "-DSTREAMER_PYTHON=ON"]
    text = configure(tmp_path, *options, "-DSTREAMER_OBJECT_STORAGE=OFF")
    assert "apt-get install python3-dev RHEL" in text
    assert "Without object storage" not in text


def test_a_missing_compiler_is_named_with_the_rest(tmp_path: Path) -> None:
    absent = str(tmp_path / "no-compiler")
    text = configure(tmp_path, "-DSTREAMER_PYTHON=ON", CC=absent, CXX=f"{absent} -m64")
    assert "a C and a C++20 compiler" in text
    assert re.search(r"apt-get install g\+\+( |$)", text)
    assert re.search(r"dnf install gcc-c\+\+( |$)", text)

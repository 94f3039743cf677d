"""Tries an SDK archive as its users do: `python -m scripts.wheels.test_sdk ARCHIVE ROOT` (root).

In ROOT, a Debian that debootstrap makes, with a C compiler:
unpacks the archive, builds examples/restore.c from what is in it alone, by pkg-config and by CMake,
and restores a file. Also checks the archive's checksum, and what the library exports and needs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from scripts.wheels.chroot import make_root

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = "gcc,libc6-dev,make,cmake,pkg-config"
CONTENT = random.Random(5).randbytes((9 << 20) + 77)
PROJECT = """
cmake_minimum_required(VERSION 3.16)
project(consumer C)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(runai-streamer CONFIG REQUIRED)
add_executable(restore restore.c)
target_compile_definitions(restore PRIVATE _XOPEN_SOURCE=700)
target_link_libraries(restore PRIVATE runai::streamer Threads::Threads)
"""
BUILD = """
set -eu
cd /sdk/examples
export PKG_CONFIG_PATH=/sdk/lib/pkgconfig
flags=$(pkg-config --cflags --libs runai-streamer)
cc -std=c99 -D_XOPEN_SOURCE=700 restore.c -o by-pkg-config $flags -lpthread -Wl,-rpath,/sdk/lib
cmake -S . -B build -DCMAKE_PREFIX_PATH=/sdk >/dev/null
cmake --build build >/dev/null
for program in ./by-pkg-config build/restore; do
  rm -rf /restored && mkdir /restored
  $program --thread --sessions=2 --strategy=io_uring_direct,sync_buffered \
    /restored /content.bin "$(stat -c %s /content.bin)"
  for file in /restored/*; do cmp "$file" /content.bin; done
done
"""


def check_archive(archive: Path) -> None:
    want = archive.with_name(archive.name + ".sha256").read_text().split()
    assert want == [hashlib.sha256(archive.read_bytes()).hexdigest(), archive.name], want
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(archive) as opened:
            opened.extractall(directory)
        (top,) = Path(directory).iterdir()
        assert top.name == archive.name.removesuffix(".tar.gz")
        for header in ("streamer", "device", "response_code", "submission_id"):
            assert (top / "include" / "streamer" / f"{header}.h").is_file(), header
        check = REPOSITORY / "tests" / "abi" / "check_exports.py"
        library = top / "lib" / "libstreamer.so"
        subprocess.run([sys.executable, str(check), str(library), "--static"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("root", type=Path, help="where a Debian is made, or was made before")
    options = parser.parse_args()
    check_archive(options.archive)
    root = options.root.resolve()
    make_root(root, PACKAGES, "cmake")
    shutil.rmtree(root / "sdk", ignore_errors=True)
    with tarfile.open(options.archive) as opened:
        opened.extractall(root)
    (root / options.archive.name.removesuffix(".tar.gz")).rename(root / "sdk")
    (root / "sdk" / "examples" / "CMakeLists.txt").write_text(PROJECT)
    (root / "content.bin").write_bytes(CONTENT)
    subprocess.run(["chroot", str(root), "sh", "-c", BUILD], check=True, timeout=600)
    print("the SDK works")


if __name__ == "__main__":
    main()

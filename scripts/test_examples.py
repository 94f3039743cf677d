"""Builds examples/c and examples/cpp against an installed copy of a build, and runs them.

`python -m scripts.test_examples BUILD`: installs the CMake build directory BUILD into a temporary
prefix, uses it by find_package and by pkg-config, and streams a file and an object of Ceph (of moto
if Ceph is not available).
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.needs import servers_are_required
from tests.support.servers import Unavailable
from tests.support.servers.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.support.servers.moto import Moto

ROOT = Path(__file__).resolve().parents[1]
# Both examples split their reads, so more than one piece of theirs.
CONTENT = random.Random(1).randbytes((8 << 20) + 12345)


def checksum(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{len(data)} bytes, checksum {value:016x}"


def run(*command: object, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        sys.exit(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(installed: Path, directory: Path) -> tuple[list[Path], list[Path]]:
    """The programs that print a checksum, and those that restore."""
    for language in ("c", "cpp"):
        target = directory / language
        source = ROOT / "examples" / language
        run("cmake", "-S", source, "-B", target, f"-DCMAKE_PREFIX_PATH={installed}")
        run("cmake", "--build", target)
    (pc,) = installed.glob("lib*/**/runai-streamer.pc")
    made = directory / "make"
    made.mkdir()
    for name in ("stream_file.c", "restore.c"):
        (made / name).write_bytes((ROOT / "examples" / "c" / name).read_bytes())
    run(
        *("make", "-C", made, "-f", ROOT / "examples" / "c" / "Makefile"),
        env={**os.environ, "PKG_CONFIG_PATH": str(pc.parent)},
    )
    return (
        [directory / "c" / "stream_file", directory / "cpp" / "stream_files", made / "stream_file"],
        [directory / "c" / "restore", made / "restore"],
    )


def restore(program: Path, directory: Path, path: Path | str, env: dict[str, str]) -> None:
    """Calls it in every way, with a file of several submissions and an empty one."""
    empty = directory / "empty.bin"
    empty.touch()
    paths = [str(path), str(len(CONTENT))]
    if "://" not in paths[0]:
        paths += [str(empty), "0"]
    for options in ([], ["--thread"], ["--sessions=3", "--thread"], ["--strategy=buffered"]):
        target = Path(tempfile.mkdtemp(dir=directory))
        run(program, *options, target, *paths * 3, env=env)
        restored = sorted(target.iterdir())
        assert len(restored) == len(paths) // 2 * 3 * (3 if "--sessions=3" in options else 1)
        want = {hashlib.sha256(CONTENT).digest(), hashlib.sha256(b"").digest()}
        assert {hashlib.sha256(file.read_bytes()).digest() for file in restored} <= want, options


@contextmanager
def bucket(content: bytes) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        server: Ceph | Moto = Ceph()
        server.__enter__()
    except Unavailable:
        if servers_are_required():
            raise
        server = Moto()
        server.__enter__()
    try:
        client = server.client()
        client.create_bucket(Bucket="examples")
        client.put_object(Bucket="examples", Key="directory/data.bin", Body=content)
        yield (
            "s3://examples/directory/data.bin",
            {
                "AWS_ENDPOINT_URL": server.url,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )
    finally:
        server.__exit__(None, None, None)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        installed = directory / "installed"
        run("cmake", "--install", sys.argv[1], "--prefix", installed)
        programs, restorers = build(installed, directory)
        (library,) = installed.glob("lib*/**/libstreamer.so")
        env = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
        for program in programs + restorers:  # a program asks for the library by its SONAME
            assert "[libstreamer.so.0]" in run("readelf", "-d", program), program
        path = directory / "data.bin"
        path.write_bytes(CONTENT)
        want = checksum(CONTENT)
        for program in programs:
            assert want in run(program, path, env=env), program
            missing = subprocess.run(
                [program, directory / "missing"],
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert missing.returncode == 1, missing
            assert "missing" in missing.stderr, missing
        for program in restorers:
            restore(program, directory, path, env)
        with bucket(CONTENT) as (uri, environment):
            for program in programs:
                assert want in run(program, uri, env=env | environment), program
            for program in restorers:
                restore(program, directory, uri, env | environment)
    print("the examples work")


if __name__ == "__main__":
    main()

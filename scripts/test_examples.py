"""Builds examples/c and examples/cpp against an installed copy of a build, and runs them.

`python -m scripts.test_examples BUILD`: installs the CMake build folder BUILD into a temporary
prefix, uses it by find_package and by pkg-config, and streams a file and an object of Ceph (of moto
where Ceph can't be had).
"""

from __future__ import annotations

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
# Both examples split what they read, so more than one piece of theirs.
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


def build(installed: Path, folder: Path) -> list[Path]:
    programs = []
    for language, name in (("c", "stream_file"), ("cpp", "stream_files")):
        target = folder / language
        source = ROOT / "examples" / language
        run("cmake", "-S", source, "-B", target, f"-DCMAKE_PREFIX_PATH={installed}")
        run("cmake", "--build", target)
        programs.append(target / name)
    (pc,) = installed.glob("lib*/**/model_streamer.pc")
    copy = folder / "stream_file.c"
    copy.write_bytes((ROOT / "examples" / "c" / "stream_file.c").read_bytes())
    run(
        *("make", "-C", folder, "-f", ROOT / "examples" / "c" / "Makefile", "stream_file"),
        env={**os.environ, "PKG_CONFIG_PATH": str(pc.parent)},
    )
    return [*programs, folder / "stream_file"]


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
        client.put_object(Bucket="examples", Key="folder/data.bin", Body=content)
        yield (
            "s3://examples/folder/data.bin",
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
        folder = Path(temporary)
        installed = folder / "installed"
        run("cmake", "--install", sys.argv[1], "--prefix", installed)
        programs = build(installed, folder)
        (library,) = installed.glob("lib*/**/libstreamer.so")
        env = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
        for program in programs:  # a program asks for the library by its SONAME
            assert "[libstreamer.so.0]" in run("readelf", "-d", program), program
        path = folder / "data.bin"
        path.write_bytes(CONTENT)
        want = checksum(CONTENT)
        for program in programs:
            assert want in run(program, path, env=env), program
            missing = subprocess.run(
                [program, folder / "missing"], env=env, capture_output=True, text=True, check=False
            )
            assert missing.returncode == 1, missing
            assert "missing" in missing.stderr, missing
        with bucket(CONTENT) as (uri, environment):
            for program in programs:
                assert want in run(program, uri, env=env | environment), program
    print("the examples work")


if __name__ == "__main__":
    main()

"""A program that restores a checkpoint by the C ABI (examples/c/restore.c), over every fault."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

import runai_model_streamer
from tests.python.object_storage.faults import FAULTS, Fault

pytestmark = pytest.mark.servers

SHARED_DIRECTORY = True
ROOT = Path(__file__).resolve().parents[3]
BYTES = random.Random(3).randbytes((20 << 20) + 12345)
NAME = "checkpoint.bin"
RESTORED, RANGES_FAILED = 0, 3


@pytest.fixture(scope="session")
def restore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, made with what the package installs."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    installed = Path(runai_model_streamer.__file__).parent / "libstreamer"
    program = tmp_path_factory.mktemp("restore") / "restore"
    subprocess.run(
        [
            *(compiler, "-std=c99", "-D_XOPEN_SOURCE=700", "-Wall", "-Wextra", "-Werror"),
            *(f"-I{installed / 'include'}", str(ROOT / "examples" / "c" / "restore.c")),
            *("-o", str(program), str(installed / "lib" / "libstreamer.so"), "-lpthread"),
            f"-Wl,-rpath,{installed / 'lib'}",
        ],
        check=True,
    )
    return program


def run(program: Path, directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    directory.mkdir()
    options = [str(argument) for argument in arguments if str(argument).startswith("--")]
    rest = [str(argument) for argument in arguments if not str(argument).startswith("--")]
    return subprocess.run(
        [str(program), *options, str(directory), *rest],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


def check_restored(directory: Path) -> None:
    for file in directory.iterdir():
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(BYTES).digest()


# The requests that a fault hits: those that open an object, and those behind its first bytes.
HIT = {"header": ".* bytes=0", "stream": ".* bytes=[1-9]"}
# Ceph keeps no checksum of an object.
SEEN = [fault for fault in FAULTS if not fault.checksum]
# In turns: responses are polled by the thread that requests, or by another one.
CASES = [
    pytest.param(operation, fault, ["--thread"] if i % 2 else [], id=f"{operation}: {fault.name}")
    for operation in HIT
    for i, fault in enumerate(fault for fault in SEEN if operation in fault.operations)
]


@pytest.mark.parametrize(("operation", "fault", "own_thread"), CASES)
def test_a_fault_ends_in_the_right_bytes_or_fails_ranges(
    s3_storage,
    use,
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
    restore: Path,
    operation: str,
    fault: Fault,
    own_thread: list[str],
) -> None:
    s3_storage.nginx.clear_faults()
    s3_storage.put(NAME, BYTES)
    use(s3_storage.proxied)
    use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20), "RUNAI_STREAMER_MAX_ATTEMPTS": "3"})
    use(fault.settings)
    if fault.anonymous:
        use(s3_storage.anonymous)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name, raising=False)
    s3_storage.nginx.fault(match=s3_storage.read_match + HIT[operation], **fault.details)
    try:
        path = f"{s3_storage.uri}/{NAME}"
        done = run(restore, tmp_path / "to", *own_thread, path, len(BYTES))
        assert s3_storage.nginx.fault_hits() > 0, "the fault was never tried"
    finally:
        s3_storage.nginx.clear_faults()
    if fault.code is None:
        assert done.returncode == RESTORED, done.stderr
        check_restored(tmp_path / "to")
    else:
        assert done.returncode == RANGES_FAILED, done.stderr
        assert path in done.stderr
        for secret in s3_storage.secrets:
            assert secret not in done.stderr


def test_a_file_that_ends_early_or_is_missing_fails_its_ranges(tmp_path, restore: Path) -> None:
    short = tmp_path / "short.bin"
    short.write_bytes(BYTES[: 9 << 20])
    whole = tmp_path / "whole.bin"
    whole.write_bytes(BYTES)
    missing = tmp_path / "missing.bin"
    done = run(
        restore,
        tmp_path / "to",
        *(short, 16 << 20, whole, len(BYTES), missing, 5 << 20),
    )
    assert done.returncode == RANGES_FAILED, done.stderr
    assert done.stderr.count("code 3") == 2
    assert done.stderr.count("code 2") == 2
    assert (tmp_path / "to" / "0-1.bin").read_bytes() == BYTES
    assert (tmp_path / "to" / "0-0.bin").read_bytes()[: 8 << 20] == BYTES[: 8 << 20]


@pytest.mark.parametrize("strategy", ["mapped", "buffered", "io_uring_direct,sync_buffered"])
def test_sessions_are_independent(tmp_path, restore: Path, strategy: str) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(BYTES)
    done = run(
        restore,
        tmp_path / "to",
        "--thread",
        "--sessions=3",
        f"--strategy={strategy}",
        file,
        len(BYTES),
    )
    assert done.returncode == RESTORED, done.stderr
    assert len(list((tmp_path / "to").iterdir())) == 3
    check_restored(tmp_path / "to")

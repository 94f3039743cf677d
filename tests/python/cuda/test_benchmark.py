"""The benchmark of a GPU, run through on the stand-in driver: every row, with next to no bytes."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_rows, peers, wheels
from benchmarks.report import Row
from runai_model_streamer import list_safetensors
from runai_model_streamer._errors import StreamerError, StreamerUnsupportedError
from tests.support.cuda_standin import Standin

ROOT = Path(__file__).parents[3]


def has_object_storage(monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("RUNAI_STREAMER_MAX_ATTEMPTS", "1")
    try:
        list_safetensors("http://127.0.0.1:1/")
    except StreamerUnsupportedError:
        return False
    except StreamerError:
        pass
    return True


@pytest.fixture
def raw_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "raw_reader"
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-pthread", "-o", str(program)]
    subprocess.run([*command, str(ROOT / "benchmarks" / "raw_reader.cc")], check=True)
    monkeypatch.setenv("BENCH_RAW_READER", str(program))


@pytest.mark.timeout(1800)  # all rows, on a busy machine
def test_every_row_runs_on_the_stand_in_driver(
    standin: Standin, raw_reader: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = set(gpu_rows.ROWS)
    lines = ["pinned copy", "registered mapping", "a group of one"]
    if has_object_storage(monkeypatch):
        lines.append("to the host")
    else:
        rows.remove("http_kept")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--standin", "--loaders", "ours"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for row in rows:
        assert re.search(rf"\n  {row}: ours \d+\.", done.stdout), done.stdout
    for line in lines:
        assert f"{line} FAILED" not in done.stdout
        assert line in done.stdout, done.stdout


def make_wheel(directory: Path, project: str, files: dict[str, str]) -> None:
    info = f"{project}-0.17.0.dist-info"
    everything = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 0.17.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in everything) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(directory / f"{project}-0.17.0-py3-none-any.whl", "w") as archive:
        for name, text in (everything | {f"{info}/RECORD": record}).items():
            archive.writestr(name, text)


def test_peers_from_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's modules lie in the wheel's .data; what it needs is another wheel."""
    make_wheel(
        tmp_path,
        "runai_model_streamer",
        {
            "runai_model_streamer-0.17.0.data/purelib/runai_model_streamer/__init__.py": (
                "import humanize; whose = 'theirs' + humanize.sign"
            )
        },
    )
    make_wheel(tmp_path, "humanize", {"humanize/__init__.py": "sign = '!'"})
    monkeypatch.setattr(wheels, "STATE", tmp_path)
    for name in ("original", "safetensors", "ours"):
        monkeypatch.setitem(peers.PEERS, name, peers.PEERS[name])
    wheels.use(tmp_path, ["original", "safetensors", "ours"])
    original = peers.PEERS["original"]
    done = subprocess.run(
        [original.python(), "-c", "import runai_model_streamer as m; print(m.whose)"],
        env={**os.environ, **original.env},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "theirs!\n"
    assert peers.PEERS["safetensors"].requirements  # has no wheel there
    assert not peers.PEERS["ours"].env


def plan() -> gpu_rows.Plan:
    return gpu_rows.Plan("a row", [], [("ours", lambda: {"seconds": 1.0})], lambda row: [])


def test_rounds_end_in_time() -> None:
    rows = {key: Row(key, "a row", 0, {"ours": []}) for key in ("one", "two")}
    gpu.measure({"one": plan(), "two": plan()}, rows, 3, -math.inf)
    assert not rows["one"].samples["ours"]
    gpu.measure({"one": plan(), "two": plan()}, rows, 3, math.inf)
    assert [len(row.samples["ours"]) for row in rows.values()] == [3, 3]


def test_rounds_are_added_to_those_of_the_same_loaders() -> None:
    earlier = {"same": {"ours": [{"seconds": 1.0}]}, "other": {"original": [{"seconds": 1.0}]}}
    assert len(gpu.row_of("same", plan(), earlier).samples["ours"]) == 1
    assert gpu.row_of("other", plan(), earlier).samples == {"ours": []}

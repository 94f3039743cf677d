"""Headers are parsed as they come: none waits for the next one, and tensors are read meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, StreamerError
from tests.support import models
from tests.support.servers.canned import Answer, Canned, Seen, ranged

from .conftest import Faulty

SMALL, LARGE = 8, 1 << 20
# The rest of the last header can be read when the tensors of the other files have been.
FIRST_FILES_FIRST = """
import sys, threading, time
from pathlib import Path
from runai_model_streamer import SafetensorsStreamer
from tests.support import models
*paths, until = sys.argv[1:]
streamer = SafetensorsStreamer()
known = []
def watch():
    while streamer.stats().bytes_read < (len(paths) - 1) << 20:
        time.sleep(0.001)
    known.extend(streamer.files_to_tensors_metadata)
    Path(until).touch()
threading.Thread(target=watch, daemon=True).start()
with streamer:
    streamer.stream_files(paths)
    assert known == list(range(len(paths) - 1)), known
    expected = {name: blob for path in paths for name, blob in models.blobs(path).items()}
    for name, tensor in streamer.get_tensors():
        assert tensor.numpy().tobytes() == expected.pop(name)
    print(len(expected))
"""


def make_files(directory: Path, count: int, tensors: int) -> list[str]:
    """Files of `tensors` small tensors and a large one, so that all headers are long, or none is.
    The last file is last.safetensors."""
    paths = []
    for number in range(count):
        name = "last" if number == count - 1 else f"model-{number}"
        header, at = {}, 0
        for index in range(tensors + 1):
            size = LARGE if index == tensors else SMALL
            header[f"model.layers.{number}.experts.{index}.weight"] = {
                "dtype": "U8",
                "shape": [size],
                "data_offsets": [at, at + size],
            }
            at += size
        data = bytes((number + index * 7) % 251 for index in range(4096)) * (at // 4096 + 1)
        paths.append(models.write(directory / f"{name}.safetensors", header, data[:at]))
    return paths


@pytest.mark.parametrize(("count", "tensors"), [(3, 1000), (6, 3)])
def test_of_local_files(tmp_path: Path, faulty: Faulty, count: int, tensors: int) -> None:
    paths = make_files(tmp_path, count, tensors)
    if tensors == 3:  # only the last header is long
        (tmp_path / "long").mkdir()
        paths[-1] = make_files(tmp_path / "long", count, 1000)[-1]
    found = faulty(
        FIRST_FILES_FIRST,
        *paths,
        tmp_path / "until",
        SHIM_FROM="40000",
        SHIM_NAME="last.safetensors",
        SHIM_UNTIL=str(tmp_path / "until"),
        RUNAI_STREAMER_FS_STRATEGY="buffered",
    )
    assert found == "0"


@pytest.mark.parametrize("tensors", [3, 1000])
def test_an_object_is_read_before_the_last_header_comes(tmp_path: Path, tensors: int) -> None:
    """The server holds the header of the last object back until a tensor of the first one was asked
    for, which only its header tells."""
    paths = make_files(tmp_path, 4, tensors)
    contents = {f"/{Path(path).name}": Path(path).read_bytes() for path in paths}
    asked, late = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Answer:
        data = contents[seen.path]
        if seen.path == "/last.safetensors":
            if not asked.wait(60):
                late.set()
        elif "model-0" in seen.path and _end(seen) > LARGE // 2:  # behind every header
            asked.set()
        return ranged(seen, data)

    with Canned(answer) as server, SafetensorsStreamer() as streamer:
        streamer.stream_files([server.url + path for path in contents])
        found = {name: tensor.numpy().tobytes() for name, tensor in streamer.get_tensors()}
    assert not late.is_set()
    expected = {name: blob for path in paths for name, blob in models.blobs(path).items()}
    assert found == expected


def _end(seen: Seen) -> int:
    """Of the range that a request asks for."""
    return int(seen.headers.get("range", "0").rpartition("-")[2])


@pytest.mark.parametrize("wrong", ["missing", "broken"])
def test_the_first_file_that_is_wrong_is_named(tmp_path: Path, wrong: str) -> None:
    """Whichever of them is known to be wrong first."""
    paths = make_files(tmp_path, 6, 3)
    Path(paths[2]).write_bytes(b"no header at all")
    Path(paths[3]).unlink()
    if wrong == "missing":
        paths[2], paths[3] = paths[3], paths[2]
    for _ in range(5):
        with SafetensorsStreamer() as streamer, pytest.raises(StreamerError) as caught:
            streamer.stream_files(paths)
        assert caught.value.path == paths[2]

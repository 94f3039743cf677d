"""Headers are parsed as they come: none waits for the next one, and tensors are read meanwhile."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import runai_model_streamer.numpy
from runai_model_streamer import SafetensorsStreamer, StreamerError, load_checkpoint
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
    The last file is tail.safetensors."""
    paths = []
    for number in range(count):
        name = "tail" if number == count - 1 else f"model-{number}"
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
def test_local_files_stream_before_the_last_header_arrives(
    tmp_path: Path, faulty: Faulty, count: int, tensors: int
) -> None:
    paths = make_files(tmp_path, count, tensors)
    if tensors == 3:  # only the last header is long
        (tmp_path / "long").mkdir()
        paths[-1] = make_files(tmp_path / "long", count, 1000)[-1]
    found = faulty(
        FIRST_FILES_FIRST,
        *paths,
        tmp_path / "until",
        SHIM_FROM="40000",
        SHIM_NAME="tail.safetensors",
        SHIM_UNTIL=str(tmp_path / "until"),
        RUNAI_STREAMER_FS_STRATEGY="buffered",
    )
    assert found == "0"


def stream(urls: list[str], **arguments: Any) -> dict[str, bytes]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(urls, **arguments)
        return {name: tensor.numpy().tobytes() for name, tensor in streamer.get_tensors()}


def checkpoint(urls: list[str]) -> dict[str, bytes]:
    index = urls[0].rpartition("/")[0] + "/model.safetensors.index.json"
    return {name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(index).items()}


def arrays(urls: list[str]) -> dict[str, bytes]:
    pairs = runai_model_streamer.numpy.stream_files(urls)
    return {name: array.tobytes() for name, array in pairs}


# What is loaded of URLs of files, whose names and contents come second.
LOADS: dict[str, Callable[[list[str], dict[str, bytes]], dict[str, bytes]]] = {
    "everything": lambda urls, _: stream(urls),
    "names": lambda urls, files: stream(urls, tensor_names=names_of(files)),
    "a function": lambda urls, _: stream(urls, tensor_names=lambda name: True),
    "verified": lambda urls, files: stream(urls, verify=digests_of(files)),
    "a part verified": lambda urls, files: stream(
        urls, tensor_names=lambda name: True, verify=digests_of(files)
    ),
    "a checkpoint": lambda urls, _: checkpoint(urls),
    "arrays": lambda urls, _: arrays(urls),
}


def names_of(files: dict[str, bytes]) -> list[str]:
    return [name for header in map(header_of, files.values()) for name in header]


def digests_of(files: dict[str, bytes]) -> dict[str, str]:
    return {path.strip("/"): hashlib.sha256(data).hexdigest() for path, data in files.items()}


def header_of(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    return header


@pytest.mark.parametrize("tensors", [3, 1000])
@pytest.mark.parametrize("load", LOADS)
def test_an_object_is_read_before_the_last_header_comes(
    tmp_path: Path, load: str, tensors: int
) -> None:
    """The server holds the header of the last object back until a tensor of the first one was asked
    for, which only its header tells."""
    paths = make_files(tmp_path, 4, tensors)
    files = {f"/{Path(path).name}": Path(path).read_bytes() for path in paths}
    places = {name: path.strip("/") for path in files for name in header_of(files[path])}
    index = json.dumps({"weight_map": places}).encode()
    asked, late = threading.Event(), threading.Event()

    def answer(seen: Seen) -> Answer:
        data = files.get(seen.path, index)
        if seen.path == "/tail.safetensors":
            if not asked.wait(60):
                late.set()
        elif "model-0" in seen.path and _end(seen) > LARGE // 2:  # behind every header
            asked.set()
        return ranged(seen, data)

    with Canned(answer) as server:
        found = LOADS[load]([server.url + path for path in files], files)
    assert not late.is_set()
    expected = {name: blob for path in paths for name, blob in models.blobs(path).items()}
    assert found == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"slices": {"model.layers.3.experts.0.weight": (slice(2), slice(2))}},
        {"slices": {"no such name": slice(2)}},
        {"slices": lambda name, shape, dtype: (slice(2), slice(2))},
        {"into": {"no such name": torch.empty(SMALL, dtype=torch.uint8)}},
        {"into": {"model.layers.3.experts.0.weight": torch.empty(1, dtype=torch.uint8)}},
        {"tensor_names": ["no such*"]},
        {"verify": {"model-0.safetensors": "0" * 64}},
    ],
)
def test_what_is_wrong_is_said_before_any_data_is_read(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    paths = make_files(tmp_path, 4, 3)
    with SafetensorsStreamer() as streamer:
        with pytest.raises(StreamerError):
            streamer.stream_files(paths, **arguments)
        assert streamer.stats().bytes_read == 0


def test_a_name_that_no_file_has_is_missed_behind_the_last_header(tmp_path: Path) -> None:
    paths = make_files(tmp_path, 4, 3)
    known = "model.layers.3.experts.0.weight"
    with SafetensorsStreamer() as streamer:
        with pytest.raises(StreamerError, match="the files have no tensor 'no such name'"):
            streamer.stream_files(paths, tensor_names=["no such name", known])
        with pytest.raises(StreamerError, match="nothing is being streamed"):
            streamer.get_tensors()
        streamer.stream_files(paths, tensor_names=[known, known])  # and it goes on
        assert [name for name, _ in streamer.get_tensors()] == [known]


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

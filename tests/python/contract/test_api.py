"""The public API of the original, and the C ABI inside the package."""

from __future__ import annotations

import ctypes
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runai_model_streamer
from runai_model_streamer import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    ObjectStorageModel,
    SafetensorsStreamer,
)
from runai_model_streamer.s3_utils.s3_utils import S3Credentials
from runai_model_streamer.safetensors_streamer.safetensors_pytorch import SafetensorsMetadata


def test_attributes_of_safetensors_streamer(files, tensors) -> None:
    with SafetensorsStreamer() as streamer:
        assert isinstance(streamer.file_streamer, DistributedStreamer)
        streamer.stream_files(files)
        assert streamer.device_str == "cpu"
        assert streamer.start_time > 0
        assert streamer.unaligned_copies == 0
        assert streamer.total_size == sum(t.numel() * t.element_size() for t in tensors.values())
        metadata = streamer.files_to_tensors_metadata[0][0]
        for name in ("name", "shape", "dtype", "offsets"):
            assert hasattr(metadata, name)
        assert isinstance(metadata.dtype, str)


def test_metadata_can_be_read_without_a_load(files) -> None:
    with FileStreamer() as streamer:
        found = SafetensorsMetadata.from_files(streamer, files, None)
    for metadata in found:
        offsets = [(m.offsets.start, m.offsets.end) for m in metadata.tensors_metadata]
        assert offsets == sorted(offsets)
        assert metadata.read_sizes == [end - start for start, end in offsets]
        assert metadata.offset > 8


def test_rarely_used_methods_of_file_streamer_exist(folder: Path, files) -> None:
    streamer = FileStreamer()
    listed = streamer.list_files(str(folder), False, ["*.safetensors"], None)
    assert listed == [(path, os.path.getsize(path)) for path in files]  # outside of a with
    with streamer:
        streamer.stream_files([FileChunks(0, files[0], [0], [10])], memory_limit=0, owned=True)
        streamer.drain_live_submissions()
        assert list(streamer.get_chunks()) == []
        assert streamer.handle_object_store(files[0], streamer, None) is None


def test_object_storage_model_takes_keywords_and_refuses_paths(tmp_path: Path) -> None:
    assert ObjectStorageModel.SENTINEL_NAME == ".runai_complete"
    inspect.signature(ObjectStorageModel).bind(model_path="s3://b/m", dst="d")
    inspect.signature(ObjectStorageModel.pull_files).bind(None, None, ["*.bin"])
    inspect.signature(ObjectStorageModel.__exit__).bind(None, None, None, None)
    assert hasattr(ObjectStorageModel, "__del__")
    with pytest.raises(ValueError):
        ObjectStorageModel(model_path="/models/m", dst=str(tmp_path / "dst"))
    assert os.listdir(tmp_path) == []  # refused before any side effect


def test_a_model_has_its_folder_and_lock_before_it_is_entered(tmp_path: Path) -> None:
    model = ObjectStorageModel(model_path="s3://bucket/m", dst=str(tmp_path / "dst") + "/")
    assert model.dir == str(tmp_path / "dst")
    assert sorted(os.listdir(tmp_path)) == ["dst", "dst.lock"]
    with pytest.raises(RuntimeError):  # nothing was downloaded
        model.__exit__(None, None, None)
    assert os.listdir(tmp_path / "dst") == []


def test_s3_credentials_have_the_names_of_the_original() -> None:
    names = ["access_key_id", "secret_access_key", "session_token", "region_name", "endpoint"]
    assert list(inspect.signature(S3Credentials).parameters) == names
    assert all(getattr(S3Credentials(), name) is None for name in names)


def test_files_may_be_open_by_safetensors_at_the_same_time(files, tensors) -> None:
    """SGLang's diffusion loader looks at every file by itself, then streams without arguments."""
    from contextlib import ExitStack

    from safetensors import safe_open

    with ExitStack() as stack:
        keys = []
        for path in files:
            keys += stack.enter_context(safe_open(path, framework="pt")).keys()
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files)
            got = {name: t.clone().detach() for name, t in streamer.get_tensors()}
    assert sorted(keys) == sorted(got) == sorted(tensors)


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


def test_the_library_of_the_package_by_ctypes(files) -> None:
    """As embedders of STREAMER_LIBRARY call it: prototypes, and the device by value."""
    folder = Path(runai_model_streamer.__file__).parent / "libstreamer" / "lib"
    library = ctypes.CDLL(str(folder / "libstreamer.so"))
    handle, submission = ctypes.c_void_p(), ctypes.c_uint64()
    assert library.runai_file_streamer_start(ctypes.byref(handle)) == 0
    content = Path(files[0]).read_bytes()
    memory = ctypes.create_string_buffer(len(content))
    done, file, part = ctypes.c_int(), ctypes.c_uint32(), ctypes.c_uint32()
    try:
        code = library.runai_file_streamer_request(
            handle,
            ctypes.byref(submission),
            ctypes.c_uint32(1),
            (ctypes.c_char_p * 1)(files[0].encode()),
            (ctypes.c_uint32 * 1)(2),
            (ctypes.c_size_t * 2)(0, 8),
            (ctypes.c_size_t * 2)(8, len(content) - 8),
            (ctypes.c_void_p * 2)(ctypes.addressof(memory), ctypes.addressof(memory) + 8),
            Device(0, 0),
        )
        assert code == 0
        for _ in range(2):
            code = library.runai_file_streamer_response(
                handle,
                ctypes.byref(submission),
                ctypes.byref(file),
                ctypes.byref(part),
                ctypes.byref(done),
                ctypes.c_uint(30_000),
            )
            assert code == 0
        assert done.value == 1
    finally:
        library.runai_file_streamer_end(handle)
    assert memory.raw == content


def test_no_public_signature_says_any() -> None:
    """A type checker that is strict has something to check in the code of consumers."""
    said, seen = [], 0
    for name in runai_model_streamer.__all__:
        made = getattr(runai_model_streamer, name)
        if inspect.isclass(made) and not issubclass(made, Exception):
            functions = [
                function
                for method, function in inspect.getmembers(made, inspect.isfunction)
                if not method.startswith("_") or method == "__init__"
            ]
        else:
            functions = [made] if inspect.isfunction(made) else []
        for function in functions:
            seen += 1
            notes = map(str, function.__annotations__.values())
            said += [function.__qualname__ for note in notes if re.search(r"\bAny\b", note)]
    assert seen > 40
    assert not said


def _signatures(module: Any) -> Iterator[tuple[str, inspect.Signature]]:
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type):
            for attribute, member in vars(value).items():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                public = not attribute.startswith("_") or attribute in ("__init__", "__enter__")
                if public and inspect.isfunction(function):
                    yield f"{name}.{attribute}", inspect.signature(function)
        elif callable(value):
            yield name, inspect.signature(value)


@pytest.mark.parametrize("module", ["", ".numpy", ".dlpack", ".integrations"])
def test_public_signatures_are_typed_and_leave_nothing_open(module: str) -> None:
    loose = []
    for name, signature in _signatures(importlib.import_module(f"runai_model_streamer{module}")):
        kinds = {key: one.annotation for key, one in signature.parameters.items()}
        kinds = {key: kind for key, kind in kinds.items() if key not in ("self", "cls")}
        kinds["return"] = signature.return_annotation
        for key, kind in kinds.items():
            if kind is inspect.Signature.empty or re.search(r"\bAny\b", str(kind)):
                loose.append(f"{name}: {key}: {kind}")
    assert not loose

"""The names that consumers import, and what an import does and does not do."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tests.support.processes import python

PUBLIC = ["SafetensorsStreamer", "list_safetensors", "pull_files", "DistributedStreamer"]
PUBLIC += ["ObjectStorageModel", "FileStreamer", "FileChunks"]
PRIVATE = [
    ("runai_model_streamer.safetensors_streamer.safetensors_pytorch", "prepare_request"),
    ("runai_model_streamer.safetensors_streamer.safetensors_pytorch", "SafetensorsMetadata"),
    ("runai_model_streamer.safetensors_streamer.safetensors_pytorch", "create_torch_tensor"),
    (
        "runai_model_streamer.safetensors_streamer.safetensors_pytorch",
        "safetensors_to_torch_dtype",
    ),
    ("runai_model_streamer.safetensors_streamer.streamer_mock", "StreamerPatcher"),
    ("runai_model_streamer.file_streamer", "FileChunks"),
    ("runai_model_streamer.file_streamer", "FileStreamer"),
    ("runai_model_streamer.file_streamer.file_streamer", "RunaiStreamerInvalidInputException"),
    ("runai_model_streamer.file_streamer.requests_iterator", "RunaiStreamerMemoryLimitException"),
    ("runai_model_streamer.distributed_streamer.distributed_streamer", "DistributedStreamer"),
    (
        "runai_model_streamer.distributed_streamer.distributed_streamer",
        "_distributedStreamerParams",
    ),
    ("runai_model_streamer.s3_utils.s3_utils", "S3Credentials"),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_symbol_is_exported_by_the_package(name: str) -> None:
    package = importlib.import_module("runai_model_streamer")
    assert name in package.__all__
    assert callable(getattr(package, name))


@pytest.mark.parametrize(("module", "name"), PRIVATE)
def test_a_private_path_that_consumers_import_has_its_name(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name)


def test_signatures_take_what_consumers_pass() -> None:
    from runai_model_streamer import (
        DistributedStreamer,
        SafetensorsStreamer,
        list_safetensors,
        pull_files,
    )
    from runai_model_streamer.safetensors_streamer.safetensors_pytorch import prepare_request

    inspect.signature(list_safetensors).bind("path", s3_credentials=None)
    inspect.signature(pull_files).bind("path", "dst", ["allow"], ["ignore"])
    inspect.signature(pull_files).bind("path", "dst", allow_pattern=["allow"])
    inspect.signature(SafetensorsStreamer).bind()
    stream_files = inspect.signature(SafetensorsStreamer.stream_files)
    stream_files.bind(None, [], None, "cpu", False, None, True)
    stream_files.bind(None, [], device="cpu", is_distributed=False)
    stream_files.bind(None, [], tensor_names=["a"], owned=False, s3_credentials=None)
    inspect.signature(SafetensorsStreamer.stream_file).bind(None, "path", device="cpu")
    inspect.signature(DistributedStreamer).bind()
    inspect.signature(DistributedStreamer.stream_files).bind(
        None, [], credentials=None, device="cpu", is_distributed=False
    )
    inspect.signature(prepare_request).bind("streamer", ["file"], None)


def test_import_starts_no_thread_and_loads_no_cloud_sdk() -> None:
    out = python(
        "import sys, torch, os\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import runai_model_streamer\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
        "print([m for m in ('boto3', 'botocore', 'google.auth', 'azure.identity', 'requests')"
        " if m in sys.modules])\n"
        "print(torch.cuda.is_initialized())\n"
    )
    assert out.split("\n") == ["0", "[]", "False"]


def test_import_reads_no_setting() -> None:
    python(
        "import runai_model_streamer",
        env={"RUNAI_STREAMER_CONCURRENCY": "nonsense", "RUNAI_STREAMER_LOG_LEVEL": "nonsense"},
    )


def test_a_native_module_that_does_not_load_is_an_import_error(tmp_path) -> None:
    # A copy of the package without its library.
    import shutil
    from pathlib import Path

    import runai_model_streamer

    source = Path(runai_model_streamer.__file__).parent
    shutil.copytree(
        source,
        tmp_path / "runai_model_streamer",
        ignore=shutil.ignore_patterns("_native*.so", "__pycache__"),
    )
    (tmp_path / "runai_model_streamer" / "_native.so").write_bytes(b"not a library")
    out = python(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "try:\n    import runai_model_streamer\n"
        "except ImportError as error:\n    print('ImportError')\n",
        str(tmp_path),
    )
    assert out == "ImportError"


def test_a_free_threaded_interpreter_without_its_lock_is_refused() -> None:
    out = python(
        "import sys; sys._is_gil_enabled = lambda: False\n"
        "try:\n    import runai_model_streamer\n"
        "except ImportError as error:\n    print(error)\n"
    )
    assert "needs the global interpreter lock" in out
    assert "PYTHON_GIL=1" in out
    python("import sys; sys._is_gil_enabled = lambda: True\nimport runai_model_streamer")

"""What works in a process that has no torch: lists, pulls, arrays of numpy, and DLPack."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.support.processes import python

# As if torch were not installed.
NO_TORCH = "import sys; sys.modules['torch'] = None\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    safetensors.torch.save_file(
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(70_000, dtype=torch.int64)},
        tmp_path / "model.safetensors",
        {"made": "here"},
    )
    return tmp_path


def test_safe_open_of_arrays_needs_no_torch(model: Path) -> None:
    out = python(
        NO_TORCH + "from runai_model_streamer import safe_open\n"
        "with safe_open(sys.argv[1], framework='numpy') as file:\n"
        "    print(file.offset_keys(), file.metadata(), len(file), 'a' in file)\n"
        "    part = file.get_slice('a')\n"
        "    print(part.get_shape(), part.get_dtype())\n"
        "    print(part[1, 1:].tolist(), part[:, -1].tolist())\n"
        "    print([row.tolist() for row in part], part[[0, 1], ::2].tolist())\n"
        "    print(type(part[0, 0]).__name__, file.get_tensor('b').sum())\n"
        "try:\n"
        "    safe_open(sys.argv[1])\n"
        "except ImportError as error:\n"
        "    print(error)\n",
        str(model),
    )
    assert out.splitlines() == [
        "['b', 'a'] {'made': 'here'} 2 True",
        "[2, 3] F32",
        "[4.0, 5.0] [2.0, 5.0]",
        "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] [[0.0, 2.0], [3.0, 5.0]]",
        "ndarray 70000",
        "safe_open: tensors need torch, which is not installed: install torch, or use "
        'framework="np"',
    ]


def test_safe_open_of_arrays_imports_no_torch(model: Path) -> None:
    out = python(
        "import sys\n"
        "from runai_model_streamer import safe_open\n"
        "with safe_open(sys.argv[1], 'np') as file:\n"
        "    print(file.get_tensor('a').tolist(), 'torch' in sys.modules)\n",
        str(model),
    )
    assert out == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] False"


def test_lists_arrays_and_capsules_need_no_torch(model: Path) -> None:
    out = python(
        NO_TORCH + "import numpy, runai_model_streamer as package\n"
        "from runai_model_streamer import list_safetensors, list_files, list_checkpoint\n"
        "from runai_model_streamer import StreamerError, S3Credentials, ObjectStorageModel\n"
        "from runai_model_streamer import pull_files, FileChunks, StreamStats\n"
        "from runai_model_streamer.numpy import load_file, stream_files\n"
        "from runai_model_streamer import dlpack\n"
        "(path,) = list_safetensors(sys.argv[1])\n"
        "assert list_checkpoint(sys.argv[1]) == [path] == [p for p, _ in list_files(sys.argv[1])]\n"
        "arrays = load_file(path)\n"
        "print(arrays['a'].tolist(), arrays['b'].dtype, arrays['b'].sum())\n"
        "for name, tensor in dlpack.stream_files([path]):\n"
        "    assert (numpy.from_dlpack(tensor) == arrays[name]).all()\n"
        "rows = lambda name, shape, dtype: slice(1)\n"
        "print({n: a.shape for n, a in stream_files([path], slices=rows)})\n"
        "print([t.shape for _, t in dlpack.stream_files([path], slices=rows)])\n"
        "print(package.__version__ != '', 'torch' in sys.modules and sys.modules['torch'])\n",
        str(model),
    )
    assert out.splitlines() == [
        "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] int64 70000",
        "{'b': (1,), 'a': (1, 3)}",
        "[(1,), (1, 3)]",
        "True None",
    ]


@pytest.mark.parametrize("name", ["SafetensorsStreamer", "load_model", "FileStreamer"])
def test_what_needs_torch_says_so(name: str) -> None:
    out = python(
        NO_TORCH + "try:\n"
        f"    from runai_model_streamer import {name}\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert out == (
        f"{name} needs torch, which is not installed: install torch, or use "
        "runai_model_streamer.numpy or runai_model_streamer.dlpack"
    )


def test_an_import_of_the_package_imports_no_torch_and_no_numpy() -> None:
    out = python(
        "import sys, runai_model_streamer\n"
        "print([name for name in ('torch', 'numpy', 'asyncio') if name in sys.modules])\n"
        "print(sorted(n for n in sys.modules if n.startswith('runai_model_streamer.')))\n"
    )
    names = ("_errors", "_installation", "_interpreter", "_native", "_native_api")
    assert out.splitlines() == ["[]", str([f"runai_model_streamer.{name}" for name in names])]


def test_every_public_name_is_found_and_listed() -> None:
    import runai_model_streamer as package

    assert sorted(package._HOMES) == sorted({*package.__all__} - {"__version__"})
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert {*package.__all__} <= {*dir(package)}
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


def test_another_missing_module_is_not_taken_for_torch(tmp_path: Path) -> None:
    out = python(
        "import sys; sys.modules['threading'] = None\n"
        "import runai_model_streamer\n"
        "try:\n    runai_model_streamer.SafetensorsStreamer\n"
        "except ImportError as error:\n    print(type(error).__name__, error.name)\n"
    )
    assert out == "ModuleNotFoundError threading"

"""The checkpoint of the contract's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import runai_model_streamer


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "big": torch.randn(1200, 300).to(torch.bfloat16),
        "bias": torch.randn(7),
        "empty": torch.empty(0, 5, dtype=torch.float16),
        "scalar": torch.tensor(2.5),
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(13, dtype=torch.uint8),
        "ids": torch.arange(100, dtype=torch.int64),
    }


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """`tensors` in two files, with other files beside them and below."""
    names = list(tensors)
    save_file({name: tensors[name] for name in names[:3]}, tmp_path / "model-1.safetensors")
    save_file({name: tensors[name] for name in names[3:]}, tmp_path / "model-2.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deeper").mkdir()
    save_file({"other": torch.zeros(1)}, tmp_path / "deeper" / "model-3.safetensors")
    return tmp_path


@pytest.fixture
def files(folder: Path) -> list[str]:
    return runai_model_streamer.list_safetensors(str(folder))

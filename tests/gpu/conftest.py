"""Tests that need a GPU: `make test-gpu`. Without one all are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="PyTorch sees no GPU"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> list[Path]:
    """Two files: large tensors, small ones, empty ones, scalars, several dtypes, odd sizes."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    paths = []
    for index in range(2):
        tensors = {
            f"{index}.embed": torch.randn(9000, 4096, generator=generator),
            f"{index}.empty": torch.empty(0, 7),
            f"{index}.scalar": torch.tensor(3.5 + index),
            f"{index}.half": torch.randn(3333, 1111, generator=generator).to(torch.bfloat16),
            f"{index}.flags": torch.rand(1001, generator=generator) > 0.5,
            f"{index}.wide": torch.randint(0, 99, (5, 3, 2), generator=generator),
        }
        for small in range(2000):
            tensors[f"{index}.norm{small}"] = torch.randn(small + 1, generator=generator)
        path = tmp_path / f"model-{index}.safetensors"
        save_file(tensors, path)
        paths.append(path)
    return paths

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "cuda_standin"))
from fixtures import standin, standin_library  # noqa: F401


@pytest.fixture
def checkpoint(tmp_path: Path) -> list[Path]:
    """Two files: large tensors, small ones, empty ones, scalars, several dtypes, odd sizes."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    paths = []
    for index in range(2):
        tensors = {
            f"{index}.embed": torch.randn(700, 1024, generator=generator),
            f"{index}.empty": torch.empty(0, 7),
            f"{index}.scalar": torch.tensor(3.5 + index),
            f"{index}.half": torch.randn(333, 111, generator=generator).to(torch.bfloat16),
            f"{index}.flags": torch.rand(1001, generator=generator) > 0.5,
            f"{index}.wide": torch.randint(0, 99, (5, 3, 2), generator=generator),
        }
        for small in range(300):
            tensors[f"{index}.norm{small}"] = torch.randn(small * 3 + 1, generator=generator)
        path = tmp_path / f"model-{index}.safetensors"
        save_file(tensors, path)
        paths.append(path)
    return paths

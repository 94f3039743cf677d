"""The stand-in driver of tests/support/cuda_standin, for benchmarks that run without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.cuda_standin import Standin, StandinMemory
from tests.support.cuda_standin import build as build


def install(driver: Path) -> Standin:
    """Has this process's loads to "cuda:0" use it."""
    from runai_model_streamer._device import cuda as cuda

    standin = Standin(driver)
    standin.reset()
    os.environ["RUNAI_STREAMER_CUDA_LIBRARY"] = str(driver)
    StandinMemory.standin = standin
    StandinMemory.used = []
    cuda.memory_factory = StandinMemory
    return standin

"""The stand-in driver of tests/cuda_standin, for benchmarks that run without a GPU."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import ROOT


@functools.cache
def module() -> Any:
    path = ROOT / "tests" / "cuda_standin" / "standin.py"
    spec = importlib.util.spec_from_file_location("standin", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("standin", made)
    spec.loader.exec_module(made)
    return made


def build(folder: Path) -> Path:
    """Compiles it; the path of the driver."""
    return Path(module().build(folder))


def install(driver: Path) -> Any:
    """Has this process's loads to "cuda:0" use it; the module's Standin."""
    standin = module().Standin(driver)
    standin.reset()
    os.environ["RUNAI_STREAMER_CUDA_LIBRARY"] = str(driver)
    memory = module().StandinMemory
    memory.standin = standin
    memory.used = []

    from runai_model_streamer._device import cuda as cuda

    cuda.memory_factory = memory
    return standin

"""Runs a consumer's own loading code in its own environment: `driver.py CHECK[,CHECK...] JSON`.

Started by test_consumers.py, also under torchrun. Prints "passed" as its last line. JSON has:
package, version, model (directory or URI), reference (the same checkpoint as a directory), and what
the check takes beyond.
"""

from __future__ import annotations

import gc
import glob
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load_file

# Before any stand-in is loaded: transformers decides once what is installed.
from transformers import (  # noqa: F401
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoProcessor,
    GenerationMixin,
)

# Idle OpenMP threads do not survive a fork; real workers are forked before any tensor is computed.
torch.set_num_threads(1)

CONFIG: dict[str, Any] = json.loads(sys.argv[2])
MODEL: str = CONFIG["model"]
EXTRA: dict[str, Any] = CONFIG.get("extra_config", {})
Weights = Iterator[tuple[str, torch.Tensor]]


def reference() -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(glob.glob(os.path.join(CONFIG["reference"], "*.safetensors"))):
        tensors |= load_file(path)
    assert tensors
    return tensors


def same(got: dict[str, torch.Tensor]) -> None:
    want = reference()
    assert set(got) == set(want), set(got) ^ set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        bits = torch.uint8
        assert torch.equal(
            got[name].contiguous().reshape(-1).view(bits), tensor.reshape(-1).view(bits)
        ), name


def collect(weights: Weights) -> None:
    """Keeps every tensor to the end, as some models do, within their default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = {}
        for name, tensor in weights:
            assert name not in got, name
            got[name] = tensor
    finally:
        torch.set_default_dtype(before)
    gc.collect()
    same(got)


class Vllm:
    def __init__(self) -> None:
        from vllm.model_executor.model_loader import runai_streamer_loader, weight_utils

        self.loader = runai_streamer_loader
        self.weight_utils = weight_utils

    def files(self) -> list[str]:
        from vllm.transformers_utils.runai_utils import list_safetensors

        return list_safetensors(MODEL)

    def iterate(self, files: list[str], distributed: bool = False) -> Weights:
        return self.weight_utils.runai_safetensors_weights_iterator(files, True, distributed)

    def load(self) -> Weights:
        from vllm.config.load import LoadConfig

        config = LoadConfig(load_format="runai_streamer", model_loader_extra_config=EXTRA)
        loader = self.loader.RunaiModelStreamerLoader(config)
        return loader._get_weights_iterator(MODEL, None)

    def load_otherwise(self, files: list[str]) -> Weights:
        """--load-format runai_streamer_sharded."""
        from vllm.config.load import LoadConfig
        from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader

        extra = {"pattern": "model-{rank}-{part}.safetensors"}
        config = LoadConfig(load_format="runai_streamer_sharded", model_loader_extra_config=extra)
        return ShardedStateLoader(config).iterate_over_files(files)

    def load_by_modelexpress(self) -> Weights:
        """ModelExpress's strategy, which takes what vLLM's loader streams."""
        from types import SimpleNamespace

        from modelexpress.engines.vllm import adapter as engine
        from modelexpress.load_strategy.model_streamer_strategy import ModelStreamerStrategy
        from vllm.engine.arg_utils import EngineArgs

        # It knows of CUDA alone, which is not on the way of a weight.
        engine.accelerator_backend_for = lambda _device: None
        index = engine._read_safetensors_index(MODEL)
        assert index is not None and set(index["weight_map"]) == set(reference())
        config = EngineArgs(
            model=CONFIG["reference"],
            load_format="runai_streamer",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=64,
        ).create_engine_config()
        adapter = engine.VllmAdapter(config, config.model_config)
        context = SimpleNamespace(adapter=adapter, global_rank=0, model_config=config.model_config)
        os.environ["MX_MODEL_URI"] = MODEL
        strategy = ModelStreamerStrategy()
        assert strategy.is_available(context)
        return strategy._stream_weights(MODEL, context)

    def leave(self) -> None:
        from vllm.distributed import destroy_distributed_environment, destroy_model_parallel

        destroy_model_parallel()
        destroy_distributed_environment()

    def pull_metadata(self, directory: str) -> None:
        from vllm.transformers_utils.runai_utils import ObjectStorageModel

        os.environ["VLLM_ASSETS_CACHE"] = directory
        # The same two calls as vllm/config/model.py makes.
        model = ObjectStorageModel(url=MODEL)
        model.pull_files(MODEL, allow_pattern=["*.model", "*.py", "*.json"])
        model.pull_files(
            MODEL, ignore_pattern=["*.pt", "*.safetensors", "*.bin", "*.tensors", "*.pth"]
        )
        assert sorted(os.listdir(model.dir)) == ["config.json", "model.safetensors.index.json"]

    def build(self, load_format: str, port: int) -> dict[str, torch.Tensor]:
        from vllm.config import set_current_vllm_config
        from vllm.distributed import init_distributed_environment, initialize_model_parallel
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.model_loader import get_model

        # vLLM 0.33 is for torch 2.14, where this is harmless without an accelerator.
        torch.accelerator.empty_cache = lambda: None
        config = EngineArgs(
            model=CONFIG["reference"],
            load_format=load_format,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=64,
        ).create_engine_config()
        with set_current_vllm_config(config):
            if not torch.distributed.is_initialized():
                init_distributed_environment(1, 0, f"tcp://127.0.0.1:{port}", 0, "gloo")
                initialize_model_parallel(1, 1)
            model = get_model(vllm_config=config)
        return {name: p.detach().clone() for name, p in model.named_parameters()}


class Sglang:
    def __init__(self) -> None:
        from sglang.srt.model_loader import loader, weight_utils

        self.loader = loader
        self.weight_utils = weight_utils
        # A server's arguments, which only the server has; its loader takes None for none.
        for name in ("get_server_args", "get_global_server_args"):
            if hasattr(loader, name):
                setattr(loader, name, lambda: None)

    def files(self) -> list[str]:
        from sglang.srt.utils.runai_utils import list_safetensors

        files = list_safetensors(MODEL)
        files.sort()
        return files

    def iterate(self, files: list[str], distributed: bool = False) -> Weights:
        return self.weight_utils.runai_safetensors_weights_iterator(files, distributed)

    def load(self) -> Weights:
        from sglang.srt.configs.load_config import LoadConfig, LoadFormat

        config = LoadConfig(load_format=LoadFormat.RUNAI_STREAMER, model_loader_extra_config=EXTRA)
        loader = self.loader.RunaiModelStreamerLoader(config)
        loader.target_device_str = "cpu"
        source = loader.Source(MODEL, None)
        return loader._get_weights_iterator(source)

    def load_otherwise(self, files: list[str]) -> Weights:
        """The loader of diffusion models."""
        from sglang.multimodal_gen.runtime.loader import weight_utils
        from sglang.multimodal_gen.runtime.loader.weight_readers import runai_streamer

        from runai_model_streamer.distributed_streamer import distributed_streamer

        replaced = distributed_streamer._distributedStreamerParams.find_local_ranks
        assert replaced.__module__ == weight_utils.__name__
        reader = runai_streamer.RunaiStreamerReader()
        return reader.iter_weights(files, device="cpu", to_cpu=False, clone_tensors=False)

    def leave(self) -> None:
        torch.distributed.destroy_process_group()

    def pull_metadata(self, directory: str) -> None:
        os.environ["SGLANG_CACHE_DIR"] = directory
        from sglang.srt.utils.runai_utils import ObjectStorageModel

        path = ObjectStorageModel.download_and_get_path(MODEL)
        again = ObjectStorageModel.download_and_get_path(MODEL)
        assert path == again
        found = set(os.listdir(path)) - {".runai_complete"}
        assert found == {"config.json", "model.safetensors.index.json"}, found


def consumer() -> Any:
    return Vllm() if CONFIG["package"] == "vllm" else Sglang()


def check_iterator() -> None:
    loading = consumer()
    collect(loading.iterate(loading.files()))


def check_loader() -> None:
    collect(consumer().load())
    if "concurrency" in EXTRA:
        assert os.environ["RUNAI_STREAMER_CONCURRENCY"] == str(EXTRA["concurrency"])
    if "memory_limit" in EXTRA:
        assert os.environ["RUNAI_STREAMER_MEMORY_LIMIT"] == str(EXTRA["memory_limit"])


def check_otherwise() -> None:
    """The package's other way to load with the streamer."""
    loading = consumer()
    collect(loading.load_otherwise(loading.files()))


def check_abandoned() -> None:
    """A model's loader that raises in the loop, and a second load after it."""
    loading = consumer()
    files = loading.files()
    weights = loading.iterate(files)
    kept = dict([next(weights), next(weights)])
    try:
        weights.throw(KeyError("from the model"))
    except KeyError:
        pass
    else:
        raise AssertionError("swallowed")
    collect(loading.iterate(files))
    want = reference()
    for name, tensor in kept.items():
        assert torch.equal(tensor, want[name]), name


def check_forked() -> None:
    """vLLM's workers are forked from a process that imported, listed, pulled and streamed."""
    loading = consumer()
    if "://" in MODEL:
        loading.pull_metadata(CONFIG["directory"])
    files = loading.files()
    collect(loading.iterate(files))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            collect(loading.iterate(loading.files()))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    collect(loading.iterate(files))


def check_metadata() -> None:
    consumer().pull_metadata(CONFIG["directory"])


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def check_distributed() -> None:
    """Every rank gets every tensor, by itself and shared; the default group stays usable."""
    loading = consumer()
    if CONFIG["package"] == "vllm":
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.distributed import init_distributed_environment, initialize_model_parallel

        ranks = int(os.environ["WORLD_SIZE"])
        with set_current_vllm_config(VllmConfig()):
            init_distributed_environment(
                backend="gloo",
                distributed_init_method="env://",
                world_size=ranks,
                rank=int(os.environ["RANK"]),
            )
            initialize_model_parallel(ranks, 1)
    else:
        torch.distributed.init_process_group("gloo")
    lines = Lines()
    logging.getLogger("runai_model_streamer").addHandler(lines)
    for mode in ("0", "1"):
        os.environ["RUNAI_STREAMER_DIST"] = mode
        lines.seen.clear()
        collect(loading.load())
        shared = f"Using distributed streaming between {os.environ['WORLD_SIZE']} processes"
        assert any(shared in line for line in lines.seen) == (mode == "1"), (mode, lines.seen)
    total = torch.ones(1, dtype=torch.int64)
    torch.distributed.all_reduce(total)
    assert total.item() == int(os.environ["WORLD_SIZE"])
    torch.distributed.barrier()
    loading.leave()


def check_modelexpress() -> None:
    collect(consumer().load_by_modelexpress())


def check_model() -> None:
    """The engine builds a model: its parameters do not depend on how they were loaded."""
    loading = consumer()
    expected = loading.build("safetensors", CONFIG["port"])
    got = loading.build("runai_streamer", CONFIG["port"])
    assert expected.keys() == got.keys() and expected
    for name, parameter in expected.items():
        assert torch.equal(parameter, got[name]), name


def main() -> None:
    checks = {name[6:]: value for name, value in globals().items() if name.startswith("check_")}
    for name in sys.argv[1].split(","):
        print(f"check {name}", flush=True)
        checks[name]()
    print("passed", flush=True)


if __name__ == "__main__":
    main()

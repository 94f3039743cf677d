"""Which files make up a checkpoint, and which file a tensor is read from."""

from __future__ import annotations

import json
import logging
import os
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import (
    RunaiStreamerInvalidInputException,
    SafetensorsHeaderError,
    StreamerError,
    StreamerNotFoundError,
    list_checkpoint,
    list_safetensors,
    load_checkpoint,
    load_file,
    load_model,
    safe_open,
)
from tests.support.models import load


def put(path: Path, **values: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.full((2,), value) for name, value in values.items()}
    safetensors.torch.save_file(tensors, path)


def put_index(path: Path, **files: str) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": files}))


def names(found: list[str]) -> list[str]:
    return [os.path.basename(path) for path in found]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two shards and their index."""
    put(tmp_path / "model-00001-of-00002.safetensors", x=1)
    put(tmp_path / "model-00002-of-00002.safetensors", w=2)
    put_index(
        tmp_path / "model.safetensors.index.json",
        x="model-00001-of-00002.safetensors",
        w="model-00002-of-00002.safetensors",
    )
    return tmp_path


@pytest.fixture
def lacking(directory: Path) -> Path:
    """An index that names three tensors that its files lack. Another shard has one of them."""
    put(directory / "model-00002-of-00002.safetensors", b=2)
    files = dict.fromkeys(["b", "c", "x"], "model-00001-of-00002.safetensors")
    files["w"] = "model-00002-of-00002.safetensors"
    put_index(directory / "model.safetensors.index.json", **files)
    return directory


SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(2))
        self.w = torch.nn.Parameter(torch.zeros(2))


def loaded(path: os.PathLike[str] | str, **options: str) -> list[float]:
    """What a model and a dict get: first x, then w."""
    model = Model()
    assert load_model(model, path, **options) == (set(), [])
    state = load_checkpoint(path, **options)
    assert set(state) == {"x", "w"}
    found = [float(model.x.data[0]), float(model.w.data[0])]
    assert found == [float(state["x"][0]), float(state["w"][0])]
    return found


class TestAnIndex:
    def test_an_index_is_found_by_its_path_and_by_its_directory(self, directory: Path) -> None:
        for path in (directory, str(directory) + "/", directory / "model.safetensors.index.json"):
            assert names(list_checkpoint(path)) == SHARDS
            assert loaded(path) == [1, 2]

    def test_paths_begin_as_they_were_given(self, directory: Path, monkeypatch) -> None:
        monkeypatch.chdir(directory)
        assert list_checkpoint("model.safetensors.index.json") == SHARDS
        assert list_checkpoint("./model.safetensors.index.json") == ["./" + s for s in SHARDS]
        assert list_checkpoint(".") == ["./" + shard for shard in SHARDS]

    def test_stale_tensors_are_neither_read_nor_yielded(self, directory: Path) -> None:
        put(directory / SHARDS[0], x=1, w=7, more=7)
        put(directory / "z.safetensors", w=9)
        assert loaded(directory) == [1, 2]
        assert names(list_checkpoint(directory)) == SHARDS
        assert names(list_safetensors(directory)) == [*SHARDS, "z.safetensors"]

    def test_what_lies_beside(self, directory: Path) -> None:
        put(directory / "consolidated.safetensors", y=1)
        put(directory / "model.fp16.safetensors", x=5, w=5)
        put(directory / "model.safetensors", x=6, w=6)
        assert loaded(directory) == [1, 2]

    def test_missing_shards_are_named(self, directory: Path) -> None:
        for shard in SHARDS:
            (directory / shard).unlink()
        for path in (directory, directory / "model.safetensors.index.json"):
            with pytest.raises(StreamerNotFoundError, match=f"{SHARDS[0]}.*{SHARDS[1]}"):
                load_model(Model(), path)

    def test_a_tensor_that_its_shard_lacks_is_named(self, lacking: Path) -> None:
        index = lacking / "model.safetensors.index.json"
        text = f"{index}: the index says that the tensor 'b' is in .*{SHARDS[0]}.*2 more.* Download"
        for path in (lacking, index):
            for load_it in (load_checkpoint, safe_open, partial(load_model, Model())):
                with pytest.raises(SafetensorsHeaderError, match=text) as caught:
                    load_it(path)
                assert caught.value.path == str(index)

    def test_a_model_may_do_without_such_a_tensor(self, lacking: Path) -> None:
        model = Model()
        assert load_model(model, lacking, strict=False) == ({"w"}, [])
        assert model.x.tolist() == [1, 1]
        wanted = {"x": "x", "b": None, "c": None, "w": None}
        with pytest.raises(RuntimeError, match=r'Missing.*"w"'):
            load_model(model, lacking, key_map=wanted.get)
        only_x = torch.nn.ParameterDict({"x": torch.zeros(2)})
        assert load_model(only_x, lacking, key_map=wanted.get) == (set(), [])

    def test_a_dangling_link_is_named(self, directory: Path) -> None:
        (directory / SHARDS[1]).unlink()
        (directory / SHARDS[1]).symlink_to(directory / "blob")
        assert names(list_checkpoint(directory)) == names(list_safetensors(directory)) == SHARDS
        for load_it in (load_checkpoint, lambda path: load(list_safetensors(path))):
            with pytest.raises(StreamerNotFoundError, match=SHARDS[1]):
                load_it(directory)

    def test_shards_may_be_below_the_directory(self, tmp_path: Path) -> None:
        put(tmp_path / "sub" / "a.safetensors", x=1, w=2)
        index = tmp_path / "model.safetensors.index.json"
        put_index(index, x="sub/a.safetensors", w="sub/a.safetensors")
        assert loaded(tmp_path) == [1, 2]
        put_index(index, x="sub/a.safetensors", w="sub/b.safetensors")
        with pytest.raises(StreamerNotFoundError, match=r"sub/b\.safetensors"):
            list_checkpoint(tmp_path)

    @pytest.mark.parametrize("file", ["../a.safetensors", "/a.safetensors", "", "a/../../b", "a\0"])
    def test_files_elsewhere_are_refused(self, file: str, tmp_path: Path) -> None:
        put_index(tmp_path / "model.safetensors.index.json", x=file)
        with pytest.raises(RunaiStreamerInvalidInputException, match="outside its directory"):
            list_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", "{", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 99999]
    )
    def test_what_is_no_index(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(RunaiStreamerInvalidInputException, match="no weight_map"):
            list_checkpoint(tmp_path)

    def test_a_long_index_is_read(self, tmp_path: Path) -> None:
        put(tmp_path / "a.safetensors", x=1, w=2)
        files = {f"layers.{number}.{'n' * 99}": "a.safetensors" for number in range(20_000)}
        files |= {"x": "a.safetensors", "w": "a.safetensors"}
        put_index(tmp_path / "model.safetensors.index.json", **files)
        assert (tmp_path / "model.safetensors.index.json").stat().st_size > 2 << 20
        model = Model()
        assert load_model(model, tmp_path, strict=False) == (set(), [])
        assert [model.x[0].item(), model.w[0].item()] == [1, 2]

    def test_the_usual_name_wins_among_several_indexes(self, directory: Path) -> None:
        put(directory / "c.safetensors", x=3, w=3)
        for name in ("consolidated", "other"):
            put_index(directory / f"{name}.safetensors.index.json", x="c.safetensors")
        assert loaded(directory) == [1, 2]
        (directory / "model.safetensors.index.json").rename(
            directory / "mine.safetensors.index.json"
        )
        with pytest.raises(StreamerError, match=r"several index files: 'mine.*'other"):
            list_checkpoint(directory)


class TestADirectory:
    @pytest.mark.parametrize(
        ("there", "variant", "expected"),
        [
            (["b", "a"], None, ["a", "b"]),
            (["a", ".hidden", "._a"], None, ["a"]),
            (["model", "model.fp16"], None, ["model"]),
            (["model", "model.fp16"], "fp16", ["model.fp16"]),
            (["model.fp16"], None, ["model.fp16"]),
            (["layer.0", "layer.1"], None, ["layer.0", "layer.1"]),
            (["m-00001-of-00002", "m-00002-of-00002"], None, None),
            (["m-00000-of-00002", "m-00001-of-00002"], None, None),
            (["m-00001-of-00001", "m.fp16-00001-of-00001"], None, ["m-00001-of-00001"]),
            (["m-00001-of-00001", "m.fp16-00001-of-00001"], "fp16", ["m.fp16-00001-of-00001"]),
            (["m-00001-of-00001", "m-00001-of-00001.bf16"], "bf16", ["m-00001-of-00001.bf16"]),
            (["model", "consolidated", "adapter_model"], None, ["model"]),
            (["consolidated.00", "consolidated.01"], None, ["consolidated.00", "consolidated.01"]),
            (["adapter_model"], None, ["adapter_model"]),
        ],
    )  # fmt: skip
    def test_only_the_files_of_one_model_are_chosen(
        self, there, variant, expected, tmp_path: Path
    ) -> None:
        for name in there:
            put(tmp_path / f"{name}.safetensors", x=1)
        (tmp_path / "directory.safetensors").mkdir()
        os.mkfifo(tmp_path / "pipe.safetensors")
        (tmp_path / "config.json").write_text("{}")
        found = list_checkpoint(tmp_path, variant=variant)
        expected = there if expected is None else expected
        assert names(found) == [f"{name}.safetensors" for name in expected]

    def test_a_variant_is_chosen_by_its_index(self, directory: Path) -> None:
        put(directory / "half.safetensors", x=3, w=4)
        put_index(
            directory / "model.safetensors.index.fp16.json",
            x="half.safetensors",
            w="half.safetensors",
        )
        assert loaded(directory) == [1, 2]
        assert loaded(directory, variant="fp16") == [3, 4]

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        for number in (1, 3, 4):
            put(tmp_path / f"m.fp16-0000{number}-of-00004.safetensors", x=1)
        with pytest.raises(StreamerNotFoundError, match=r"missing: 'm\.fp16-00002-of-00004"):
            load_checkpoint(tmp_path)

    def test_a_name_in_two_files(self, tmp_path: Path) -> None:
        put(tmp_path / "a.safetensors", x=1, w=1)
        put(tmp_path / "b.safetensors", w=2)
        for load_it in (load_checkpoint, lambda path: load_model(Model(), path)):
            with pytest.raises(StreamerError, match=r"b\.safetensors: 'w' stands in .*a\.safe"):
                load_it(tmp_path)

    @pytest.mark.parametrize(
        ("there", "hint"),
        [
            ([], "no safetensors files in this directory$"),
            (["M.SAFETENSORS"], "small letters.*M.SAFETENSORS"),
            ([".m.safetensors"], "do not begin with a dot.*.m.safetensors"),
            (["pytorch_model.bin"], "PyTorch's own: 'pytorch_model.bin'"),
        ],
    )
    def test_a_directory_without_a_model_is_an_error_with_a_hint(
        self, there, hint, tmp_path: Path
    ) -> None:
        for name in there:
            (tmp_path / name).touch()
        with pytest.raises(StreamerNotFoundError, match=hint):
            load_model(Model(), tmp_path)
        with pytest.raises(StreamerNotFoundError, match="the variant 'fp16'"):
            load_model(Model(), tmp_path, variant="fp16")

    def test_one_that_does_not_exist(self, tmp_path: Path) -> None:
        for path in ("none", "none/", "none/model.safetensors.index.json", "none.safetensors"):
            with pytest.raises(StreamerNotFoundError, match="none"):
                load_checkpoint(tmp_path / path)

    def test_one_that_can_not_be_listed(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(StreamerError, match="loop"):
            load_checkpoint(tmp_path / "loop" / "model.safetensors.index.json")

    def test_a_listing_that_fails(self, directory: Path, monkeypatch) -> None:
        def fail(path: str) -> None:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(os, "scandir", fail)
        with pytest.raises(PermissionError, match="can't be listed: Permission denied"):
            list_checkpoint(directory)
        assert list_safetensors(directory) == []


class TestPatterns:
    def test_a_pattern_matches_the_last_part_of_a_path(self, directory: Path) -> None:
        assert names(list_checkpoint(directory / "*-00001-*.safetensors")) == SHARDS[:1]
        assert loaded(directory / "model-*") == [1, 2]

    def test_a_file_of_that_name_comes_first(self, tmp_path: Path) -> None:
        put(tmp_path / "m[1].safetensors", x=1)
        put(tmp_path / "m1.safetensors", x=2)
        assert names(list_checkpoint(tmp_path / "m[1].safetensors")) == ["m[1].safetensors"]

    def test_what_matches_nothing(self, directory: Path) -> None:
        with pytest.raises(StreamerNotFoundError, match="match the pattern"):
            list_checkpoint(directory / "other-*")
        with pytest.raises(StreamerError, match="last part"):
            list_checkpoint(directory.parent / "*" / "*.safetensors")


class TestPaths:
    def test_a_file_uri_is_a_path(self, directory: Path) -> None:
        odd = directory / "ü %.safetensors"
        put(odd, x=3)
        assert float(load_file(odd.as_uri())["x"][0]) == 3
        assert float(load_file("FILE://localhost" + str(directory / SHARDS[0]))["x"][0]) == 1
        assert loaded(directory.as_uri()) == [1, 2]
        for uri in ("file://host/a", "file://a"):
            with pytest.raises(RunaiStreamerInvalidInputException, match="file:///"):
                load_file(uri)

    def test_a_tilde_is_the_home_directory(self, directory: Path, monkeypatch) -> None:
        monkeypatch.setenv("HOME", str(directory))
        assert loaded("~") == [1, 2]
        assert float(load_file(f"~/{SHARDS[0]}")["x"][0]) == 1
        monkeypatch.chdir(directory)
        put(directory / "~" / "a.safetensors", x=8)
        assert float(load_file("~/a.safetensors")["x"][0]) == 8

    @pytest.mark.parametrize("path", [None, 3, b"name"])
    def test_what_is_no_path(self, path) -> None:
        with pytest.raises(StreamerError, match="a path is text"):
            load_file(path)
        with pytest.raises(StreamerError, match="a path is text"):
            list_checkpoint(path)

    def test_a_path_with_a_zero_byte_is_refused(self, directory: Path) -> None:
        with pytest.raises(StreamerError, match="zero byte"):
            load_file(str(directory / SHARDS[0]) + "\0.txt")

    def test_a_name_that_is_not_utf_8(self, tmp_path: Path) -> None:
        put(tmp_path / "a", x=1, w=2)
        os.rename(tmp_path / "a", os.fsencode(tmp_path) + b"/\xff.safetensors")
        (found,) = list_safetensors(tmp_path)
        assert loaded(found) == loaded(tmp_path) == [1, 2]
        os.truncate(found, 20)
        with pytest.raises(StreamerError, match="truncated"):
            load_file(found)
        with pytest.raises(StreamerError, match="can be encoded"):
            load_file(str(tmp_path / "\ud800"))

    def test_a_file_of_any_name(self, tmp_path: Path) -> None:
        put(tmp_path / "blob", x=1, w=2)
        assert loaded(tmp_path / "blob") == [1, 2]


class TestTheListOfSafetensors:
    def test_what_it_can_not_read_is_a_warning(self, tmp_path: Path, caplog) -> None:
        for path in (tmp_path / "none", tmp_path / "file"):
            (tmp_path / "file").touch()
            caplog.clear()
            with caplog.at_level(logging.WARNING, "runai_model_streamer"):
                assert list_safetensors(path) == []
            assert str(path) in caplog.text and "can't be listed" in caplog.text

    def test_an_index_lists_its_files_only_if_all_exist(self, directory: Path, caplog) -> None:
        index = directory / "model.safetensors.index.json"
        assert names(list_safetensors(index)) == SHARDS
        (directory / SHARDS[1]).unlink()
        with caplog.at_level(logging.WARNING, "runai_model_streamer"):
            assert list_safetensors(index) == []
        assert SHARDS[1] in caplog.text

    def test_other_capitals_are_a_warning(self, tmp_path: Path, caplog) -> None:
        (tmp_path / "M.SAFETENSORS").touch()
        with caplog.at_level(logging.WARNING, "runai_model_streamer"):
            assert list_safetensors(tmp_path) == []
        assert "small letters" in caplog.text

    def test_an_empty_directory_is_none(self, tmp_path: Path, caplog) -> None:
        with caplog.at_level(logging.WARNING, "runai_model_streamer"):
            assert list_safetensors(tmp_path) == []
        assert not caplog.records

    def test_names_as_glob_gives_them(self, tmp_path: Path, monkeypatch) -> None:
        for name in ("a", ".b", "c"):
            put(tmp_path / f"{name}.safetensors", x=1)
        (tmp_path / "link.safetensors").symlink_to("nowhere")
        (tmp_path / "directory.safetensors").mkdir()
        expected = ["a.safetensors", "c.safetensors", "link.safetensors"]
        assert names(list_safetensors(tmp_path)) == expected
        monkeypatch.chdir(tmp_path)
        assert list_safetensors("") == expected
        assert list_safetensors(".") == ["./" + name for name in expected]

"""Loads whose files are compared with a manifest."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runai_model_streamer import (
    RunaiStreamerInvalidInputException,
    SafetensorsStreamer,
    StreamerDigestError,
    StreamerNotFoundError,
    StreamerUnsupportedError,
    load_checkpoint,
    load_file,
    load_model,
)
from runai_model_streamer._verify.interleaving import interleaved
from runai_model_streamer._verify.manifest import (
    Manifest,
    format_statement,
    format_sums,
    parse_manifest,
)
from tests.support.models import file_bytes, load, make_model, same, save


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def models() -> list[dict[str, torch.Tensor]]:
    return [
        {f"{name}.{number}": tensor for name, tensor in make_model(2, 4, seed=number).items()}
        for number in range(3)
    ]


@pytest.fixture
def files(tmp_path: Path, models: list[dict[str, torch.Tensor]]) -> list[Path]:
    """Three files, of large and of small tensors, with the manifest beside them."""
    paths = []
    for number, model in enumerate(models):
        small = {f"small.{n}.{number}": torch.full((n,), n, dtype=torch.int16) for n in range(50)}
        path = tmp_path / f"part-{number}.safetensors"
        path.write_bytes(save(model | small))
        paths.append(path)
    lines = "".join(f"{digest(path)}  {path.name}\n" for path in paths)
    (tmp_path / "SHA256SUMS").write_text(lines)
    return paths


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


class TestAGoodLoad:
    @pytest.mark.parametrize("how", ["auto", "path", "mapping", "variable"])
    def test_every_way_to_name_a_manifest(self, files, models, monkeypatch, how: str) -> None:
        directory = files[0].parent
        verify = {
            "auto": "auto",
            "path": directory / "SHA256SUMS",
            "mapping": {path.name: digest(path) for path in files},
            "variable": None,
        }[how]
        if how == "variable":
            monkeypatch.setenv("RUNAI_STREAMER_VERIFY", "auto")
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify=verify)
            loaded = dict(streamer.get_tensors())
            assert streamer.unverified == []
            assert streamer.stats().notes["verify"].startswith("3 files have the SHA-256")
        for model in models:
            for name, tensor in model.items():
                assert same(loaded[name], tensor)
        for number, tensors in streamer.files_to_tensors_metadata.items():
            own = [name for name in loaded if name.endswith(f".{number}")]
            assert own == [tensor.name for tensor in tensors]

    def test_what_the_consumer_does_to_its_tensors_does_not_count(self, files) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto")
            for _, tensor in streamer.get_tensors():
                tensor.zero_()

    def test_a_wrong_file_is_found_in_destinations(self, files, models) -> None:
        into = {name: torch.empty_like(tensor) for name, tensor in models[1].items()}
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto", into=into)
            streamer.wait()
            assert streamer.unverified == []
        assert all(same(into[name], models[1][name]) for name in into)
        flip(files[1], -1)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto", into=into)
            with pytest.raises(StreamerDigestError):
                streamer.wait()

    def test_files_without_tensors_are_verified(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(file_bytes({}))
        assert load(path, verify={"x.safetensors": digest(path)}) == {}
        with pytest.raises(StreamerDigestError):
            load(path, verify={"x.safetensors": "0" * 64})

    def test_a_file_that_is_given_twice_is_verified(self, files) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([files[0], files[0]], verify="auto")
            assert len(list(streamer.get_tensors())) == 2 * 54

    def test_functions_that_load_find_a_wrong_file(self, files, models) -> None:
        path = files[0]
        assert same(load_file(path, verify="auto")["layer.0.0"], models[0]["layer.0.0"])
        assert len(load_checkpoint(path.parent, verify="auto")) == 3 * 54
        flip(path, -1)
        for call in (load_file, load_checkpoint):
            with pytest.raises(StreamerDigestError):
                call(path, verify="auto")

    def test_a_module_is_loaded_from_a_right_file_only(self, tmp_path: Path) -> None:
        module = torch.nn.Linear(300, 200)
        path = tmp_path / "x.safetensors"
        path.write_bytes(save(module.state_dict()))
        good = {"x.safetensors": digest(path)}
        load_model(torch.nn.Linear(300, 200), path, verify=good)
        flip(path, -1)
        with pytest.raises(StreamerDigestError):
            load_model(torch.nn.Linear(300, 200), path, verify=good)


class TestAWrongFile:
    @pytest.mark.parametrize("number", [0, 1, 2])
    @pytest.mark.parametrize("where", ["first byte of data", "middle", "last byte"])
    def test_the_last_tensor_of_a_wrong_file_never_comes(self, files, number, where) -> None:
        data = files[number].read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        place = {
            "first byte of data": start,
            "middle": (start + len(data)) // 2,
            "last byte": len(data) - 1,
        }[where]
        flip(files[number], place)
        names: list[str] = []
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto")
            last = streamer.files_to_tensors_metadata[number][-1].name
            with pytest.raises(StreamerDigestError) as caught:
                names.extend(name for name, _ in streamer.get_tensors())
        error = caught.value
        assert last not in names
        assert error.code == "digest"
        assert error.path == str(files[number])
        assert digest(files[number]) in str(error)

    def test_what_was_yielded_before(self, files) -> None:
        flip(files[1], -1)
        names = []
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto")
            with pytest.raises(StreamerDigestError):
                for name, _ in streamer.get_tensors():
                    names.append(name)
            metadata = streamer.files_to_tensors_metadata
            with pytest.raises(StreamerDigestError):  # again, and nothing else
                next(streamer.get_tensors())
        assert names
        assert metadata[1][-1].name not in names

    def test_a_header_that_was_changed(self, files) -> None:
        data = files[0].read_bytes()
        flip(files[0], data.index(b"small.7.") + 6)  # small.6.0: another name
        with SafetensorsStreamer() as streamer, pytest.raises((StreamerDigestError, ValueError)):
            streamer.stream_files(files, verify="auto")
            list(streamer.get_tensors())

    def test_metadata_that_was_changed(self, tmp_path: Path) -> None:
        header = {
            "__metadata__": {"author": "a"},
            "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        }
        path = tmp_path / "x.safetensors"
        path.write_bytes(file_bytes(header, b"1"))
        good = {"x.safetensors": digest(path)}
        load(path, verify=good)
        header["__metadata__"] = {"author": "b"}
        path.write_bytes(file_bytes(header, b"1"))
        with pytest.raises(StreamerDigestError):
            load(path, verify=good)

    def test_a_file_that_is_not_listed(self, files) -> None:
        manifest = {path.name: digest(path) for path in files[:2]}
        with SafetensorsStreamer() as streamer:
            with pytest.raises(StreamerNotFoundError, match=r"part-2.*does not list it"):
                streamer.stream_files(files, verify=manifest)

    def test_a_file_with_a_sliced_tensor_is_not_verified(self, files) -> None:
        manifest = {path.name: "0" * 64 for path in files[:1]} | {files[1].name: digest(files[1])}
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files[:2], slices={"small.3.0": slice(0, 1)}, verify=manifest)
            assert streamer.unverified == [str(files[0])]
            dict(streamer.get_tensors())

    def test_a_missing_manifest_is_an_error(self, tmp_path: Path, files) -> None:
        (tmp_path / "SHA256SUMS").unlink()
        with pytest.raises(StreamerNotFoundError, match="no manifest beside it"):
            load(files[0], verify="auto")
        with pytest.raises(StreamerNotFoundError, match="gone"):
            load(files[0], verify=tmp_path / "gone")


class TestHashingAtOnce:
    @pytest.fixture
    def processors(self, monkeypatch) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})

    def test_files_are_hashed_at_once(self, files, processors, monkeypatch) -> None:
        """Each of two files waits for the other one in its first update."""
        barrier = threading.Barrier(2)
        real = hashlib.sha256

        class Meeting:
            def __init__(self, head: bytes) -> None:
                self.hash, self.met = real(head), False

            def update(self, data: object) -> None:
                if not self.met:
                    self.met = True
                    barrier.wait(60)
                self.hash.update(data)  # type: ignore[arg-type]

            def hexdigest(self) -> str:
                return self.hash.hexdigest()

        manifest = {path.name: digest(path) for path in files[:2]}
        monkeypatch.setattr(hashlib, "sha256", Meeting)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files[:2], verify=manifest)
            assert len(list(streamer.get_tensors())) == 2 * 54

    @given(
        st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=6),
        st.integers(1, 5),
        st.integers(1, 100),
    )
    def test_pieces_cover_every_range_of_as_many_files_as_processors(
        self, sizes, processors: int, piece: int
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.sched_getaffinity", lambda pid: set(range(processors)))
            order = list(interleaved(sizes, piece))
        assert [file for file, first, last in order if first >= last] == []
        for number, ranges in enumerate(sizes):
            own = [(first, last) for file, first, last in order if file == number]
            covered = [index for first, last in own for index in range(first, last)]
            assert covered == list(range(len(ranges)))
            assert all(sum(ranges[first:last]) >= piece for first, last in own[:-1])
        places = [[i for i, one in enumerate(order) if one[0] == n] for n in range(len(sizes))]
        for index in range(len(order)):
            assert sum(bool(p) and p[0] <= index < p[-1] for p in places) <= processors

    @pytest.mark.parametrize("taken", [0, 1, 60])
    def test_threads_end_with_the_load(self, files, taken: int) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto")
            tensors = streamer.get_tensors()
            for _ in range(taken):
                next(tensors)
        assert not [t for t in threading.enumerate() if t.name.startswith("streamer-sha256")]

    def test_a_second_iterator_goes_on(self, files) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto")
            first = [name for name, _ in first_of(streamer, 70)]
            rest = [name for name, _ in streamer.get_tensors()]
            assert len(first + rest) == len({*first, *rest}) == 3 * 54
            assert streamer.stats().notes["verify"].startswith("3 files")


def first_of(streamer: SafetensorsStreamer, count: int) -> list[tuple[str, torch.Tensor]]:
    return list(itertools.islice(streamer.get_tensors(), count))


class TestAPartOfAFile:
    def test_it_is_named(self, files, caplog) -> None:
        flip(files[1], -1)  # which nobody can tell
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(
                files, verify="auto", tensor_names=lambda name: not name.startswith("layer.0.1")
            )
            list(streamer.get_tensors())
            assert streamer.unverified == [str(files[1])]
            note = streamer.stats().notes["verify"]
        assert "2 files have" in note
        assert f"not verified, as they are not read as a whole: {files[1]}" in note
        assert f"{files[1]}: only a part is read, so that it is not verified" in caplog.messages

    def test_the_next_load_knows_nothing_of_it(self, files) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(files, verify="auto", tensor_names=["layer.0.0"])
            streamer.stream_files(files)
            assert streamer.unverified == []
            assert "verify" not in streamer.stats().notes


class TestManifests:
    @given(
        st.dictionaries(
            st.text("ab \\\n\r./*(é", min_size=1, max_size=8).map("x".__add__),
            st.binary(min_size=32, max_size=32),
            min_size=1,
            max_size=5,
        )
    )
    def test_what_is_written_is_read(self, digests) -> None:
        hexadecimal = {name: value.hex() for name, value in digests.items()}
        assert parse_manifest(format_sums(hexadecimal).encode(), "m").digests == hexadecimal
        text = format_statement(hexadecimal, "m").encode()
        assert parse_manifest(text, "m").digests == hexadecimal
        envelope = {"payload": base64.b64encode(text).decode(), "signatures": []}
        for wrapped in (envelope, {"dsseEnvelope": envelope}):
            assert parse_manifest(json.dumps(wrapped).encode(), "m").digests == hexadecimal

    @given(st.binary(max_size=200))
    def test_anything_else_is_an_error_of_its_own(self, data: bytes) -> None:
        try:
            parse_manifest(data, "m")
        except (RunaiStreamerInvalidInputException, StreamerUnsupportedError):
            pass

    def test_the_forms_of_other_tools(self, tmp_path: Path) -> None:
        (tmp_path / "a b").write_bytes(b"1")
        for option in ([], ["--tag"], ["--binary"]):
            done = subprocess.run(
                ["sha256sum", *option, "a b"], cwd=tmp_path, check=True, capture_output=True
            )
            assert parse_manifest(done.stdout, "m").digests == {
                "a b": hashlib.sha256(b"1").hexdigest()
            }
        assert parse_manifest(b"# by hand\r\n\r\n" + b"A" * 64 + b"  ./x\r\n", "m").digests == {
            "x": "a" * 64
        }
        marked = b"\xef\xbb\xbf" + b"a" * 64 + b"  x\r\n"  # as editors of Windows write UTF-8
        assert parse_manifest(marked, "m").digests == {"x": "a" * 64}

    def test_lines_that_end_with_zero_bytes(self) -> None:
        """Of sha256sum --zero. One name would contain all the others."""
        text = b"".join(b"a" * 64 + b"  " + name + b"\0" for name in (b"x", b"y"))
        with pytest.raises(RunaiStreamerInvalidInputException, match="line 1 is no SHA-256"):
            parse_manifest(text, "m")

    def test_a_statement_that_was_changed(self) -> None:
        statement = json.loads(format_statement({"a": "0" * 64, "b": "1" * 64}, "m"))
        statement["predicate"]["resources"][0]["digest"] = "2" * 64
        with pytest.raises(RunaiStreamerInvalidInputException, match="it was changed"):
            parse_manifest(json.dumps(statement).encode(), "m")
        statement["predicate"]["resources"][0]["algorithm"] = "blake2b"
        with pytest.raises(StreamerUnsupportedError, match="only SHA-256"):
            parse_manifest(json.dumps(statement).encode(), "m")

    def test_two_digests_of_one_name(self) -> None:
        text = f"{'0' * 64}  a\n{'1' * 64}  ./a\n".encode()
        with pytest.raises(RunaiStreamerInvalidInputException, match="two digests of 'a'"):
            parse_manifest(text, "m")

    def test_the_longest_end_of_a_path_counts(self) -> None:
        manifest = Manifest({"x": "0" * 64, "a/x": "1" * 64})
        assert manifest.digest_of("s3://bucket/b/a/x") == "1" * 64
        assert manifest.digest_of("/models/b/x") == "0" * 64

    def test_the_cache_of_the_hub_is_a_manifest(self, tmp_path: Path, models) -> None:
        data = save(models[0])
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
        blobs.mkdir()
        snapshot.mkdir(parents=True)
        blob = blobs / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        path = snapshot / "model.safetensors"
        path.symlink_to(blob)
        assert len(load(path, verify="auto")) == 4
        flip(blob, -1)
        with pytest.raises(StreamerDigestError, match="the cache of the hub"):
            load(path, verify="auto")

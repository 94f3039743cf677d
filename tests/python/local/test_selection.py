"""What is read: names, patterns and functions; slices; and into memory that exists."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import (
    FileChunks,
    SafetensorsStreamer,
    StreamerChangedError,
    StreamerError,
    list_safetensors,
    load_file,
    load_model,
)
from runai_model_streamer._device import registry
from runai_model_streamer._device.moved import MovedSink
from runai_model_streamer._formats.safetensors import tensor_slice
from tests.support.models import load, same, save_floats


class TestNames:
    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (["layers.1.bias"], {"layers.1.bias"}),
            (["layers.?.bias"], {f"layers.{i}.bias" for i in range(3)}),
            (
                ["layers.0.*", "layers.0.bias"],
                {"layers.0." + p for p in ("weight", "bias", "none")},
            ),
            (["*.[bn]*"], {f"layers.{i}.{p}" for i in range(3) for p in ("bias", "none")}),
            (lambda name: name.endswith("weight"), {f"layers.{i}.weight" for i in range(3)}),
            (lambda name: False, set()),
        ],
    )
    def test_only_what_is_wanted(self, strategy, model, wanted, expected) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path], tensor_names=wanted)
            assert {t.name for t in streamer.files_to_tensors_metadata[0]} == expected
            found = dict(streamer.get_tensors())
            stats = streamer.stats()
        assert set(found) == expected
        assert all(same(found[name], tensors[name]) for name in expected)
        assert stats.bytes == sum(tensors[name].nbytes for name in expected)

    def test_what_is_not_wanted_is_not_read(self, model, monkeypatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "buffered")
        path, _ = model
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path], tensor_names=["*.bias"])
            list(streamer.get_tensors())
            assert sum(streamer.stats().bytes_by_strategy.values()) == 3 * 28

    def test_a_name_may_look_like_a_pattern(self, tmp_path: Path) -> None:
        tensors = {"a[0]": torch.ones(1), "a0": torch.zeros(1)}
        safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
        assert set(load(tmp_path / "a.safetensors", tensor_names=["a[0]"])) == {"a[0]"}

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            (["layers.9.bias"], "layers.9.bias"),
            (["nothing.*"], r"nothing\.\*"),
            ("layers.1.bias", "list of names"),
            (b"layers", "list of names"),
            ([], "empty"),
            ([3], "3 is not text"),
        ],
    )
    def test_a_selection_that_fits_nothing_is_an_error(self, model, wanted, message) -> None:
        with pytest.raises(StreamerError, match=message):
            load(model[0], tensor_names=wanted)

    def test_a_name_in_two_files_is_an_error(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_floats(tmp_path / f"{name}.safetensors", [3])
        paths = list_safetensors(tmp_path)
        with pytest.raises(StreamerError, match=r"t0000.*duplicate"):
            load(paths, tensor_names=["t0000"])

    def test_an_exception_of_the_function_passes_through(self, model) -> None:
        with pytest.raises(ZeroDivisionError):
            load(model[0], tensor_names=lambda name: 1 // 0)


class TestInto:
    def test_a_mapping_is_filled_in_place(self, strategy, model) -> None:
        path, tensors = model
        into = {name: torch.full_like(tensor, 9) for name, tensor in tensors.items()}
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path], into=into)
            for name, tensor in streamer.get_tensors():
                assert tensor is into[name]
            assert streamer.stats().peak_memory == 0
        assert all(same(into[name], tensors[name]) for name in tensors)

    def test_a_mapping_may_name_a_part_of_the_tensors(self, strategy, model) -> None:
        path, tensors = model
        into = {name: torch.zeros_like(t) for name, t in tensors.items() if ".1." in name}
        found = load(path, into=into)
        assert all(same(found[name], tensors[name]) for name in tensors)
        assert all(found[name] is into[name] for name in into)

    def test_a_module_is_filled_and_stays_trainable(self, strategy, tmp_path: Path) -> None:
        source, target = torch.nn.Linear(300, 400), torch.nn.Linear(300, 400)
        safetensors.torch.save_file(source.state_dict(), tmp_path / "a.safetensors")
        load(tmp_path / "a.safetensors", into=target)
        assert torch.equal(source.weight, target.weight) and target.weight.requires_grad
        assert torch.equal(source.bias, target.bias)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (torch.zeros(7, dtype=torch.float16), "dtype"),
            (torch.zeros(8), "shape"),
            (torch.zeros(1, 7), "shape"),
            (torch.zeros(14)[::2], "contiguous"),
            (torch.zeros(7, device="meta"), "meta"),
            ([0.0] * 7, "not a tensor"),
            (torch.zeros(7).to_sparse(), "contiguous"),
        ],
    )
    def test_destinations_that_do_not_fit(self, model, target, message) -> None:
        with pytest.raises(StreamerError, match=message) as caught:
            load(model[0], into={"layers.0.bias": target})
        assert "layers.0.bias" in str(caught.value)

    def test_a_destination_that_no_file_has_is_an_error(self, model) -> None:
        with pytest.raises(StreamerError, match=r"no tensor 'layers\.7'"):
            load(model[0], into={"layers.7": torch.zeros(1)})

    def test_overlapping_destinations_are_refused(self, model) -> None:
        memory = torch.zeros(10)
        into = {"layers.0.bias": memory[:7], "layers.1.bias": memory[3:]}
        with pytest.raises(StreamerError, match="overlap"):
            load(model[0], into=into)

    def test_a_module_whose_parameter_no_file_has(self, tmp_path: Path) -> None:
        save_floats(tmp_path / "a.safetensors", [1])
        with pytest.raises(StreamerError, match="parameter 'weight'"):
            load(tmp_path / "a.safetensors", into=torch.nn.Linear(2, 2))

    def test_names_that_stand_in_two_files(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_floats(tmp_path / f"{name}.safetensors", [3])
        with pytest.raises(StreamerError, match="duplicate"):
            load(list_safetensors(tmp_path), into={"t0000": torch.zeros(3)})


class TestSlices:
    @pytest.mark.parametrize(
        "index",
        [
            slice(10, 20), slice(None), slice(5, None, None), slice(-3, None), slice(20, 10),
            slice(0, 10**9), 0, 299, -1, ..., (slice(3, 5), slice(2, 4)), (7, 3), (slice(1, 3), 0),
            (..., 5), slice(0, 0),
        ],
    )  # fmt: skip
    def test_what_torch_would_give(self, strategy, model, index) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            found = streamer.get_slice("layers.1.weight")[index]
        assert same(found, tensors["layers.1.weight"][index])

    def test_a_slice_has_shape_and_dtype(self, model) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.open_files([model[0]])
            part = streamer.get_slice("layers.1.weight")
            assert part.get_shape() == [300, 400] and part.get_dtype() == "F32"
            assert streamer.get_slice("layers.1.none")[:].shape == (0, 2)

    def test_only_its_bytes_are_read(self, model, monkeypatch) -> None:
        read: list[int] = []
        init = FileChunks.__init__

        def count(self, id, path, offsets, sizes, **more):
            read.extend(sizes)
            init(self, id, path, offsets, sizes, **more)

        with SafetensorsStreamer() as streamer:
            streamer.open_files([model[0]])
            part = streamer.get_slice("layers.1.weight")
            monkeypatch.setattr(FileChunks, "__init__", count)
            part[10:20]
            part[3]
        assert read == [10 * 400 * 4, 400 * 4]

    @pytest.mark.parametrize(
        ("index", "error"),
        [(300, IndexError), (-301, IndexError), (slice(9, 0, -2), ValueError), ("x", ValueError)],
    )
    def test_an_index_out_of_range_is_an_error(self, model, index, error) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.open_files([model[0]])
            with pytest.raises(error):
                streamer.get_slice("layers.1.weight")[index]
            with pytest.raises(KeyError):
                streamer.get_slice("nothing")

    @pytest.mark.parametrize("before", [True, False], ids=["before any read", "after a read"])
    def test_a_file_that_was_replaced(self, strategy, model, tmp_path, before) -> None:
        path, tensors = model
        other = {name: tensor + 1 for name, tensor in tensors.items()}
        safetensors.torch.save_file(other, tmp_path / "other")
        os.utime(tmp_path / "other", (1, 1))  # not within the same tick of the clock
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            part = streamer.get_slice("layers.1.weight")
            if not before:
                assert same(part[0], tensors["layers.1.weight"][0])
            os.replace(tmp_path / "other", path)
            if before:
                with pytest.raises(StreamerChangedError, match="after its header was read"):
                    part[1:3]
                with pytest.raises(StreamerChangedError):
                    part[1:3]
            else:
                try:
                    assert same(part[1:3], tensors["layers.1.weight"][1:3])
                except StreamerChangedError:
                    pass

    def test_a_file_that_was_written_to(self, model) -> None:
        path, _ = model
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            part = streamer.get_slice("layers.1.weight")
            part[0]
            with open(path, "ab") as file:
                file.write(b"more")
            with pytest.raises(StreamerChangedError):
                part[0]

    def test_all_slices_open_a_file_once(self, model, monkeypatch) -> None:
        path, tensors = model
        made = []
        session = tensor_slice.Session
        monkeypatch.setattr(
            tensor_slice, "Session", lambda *a, **k: made.append(session(*a, **k)) or made[-1]
        )
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            for name in tensors:
                assert same(streamer.get_slice(name)[...], tensors[name])
        assert len(made) == 1

    def test_from_threads_and_after_the_streamer_was_closed(self, model) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            parts = {name: streamer.get_slice(name) for name in tensors if "none" not in name}
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda name: (name, parts[name][...]), [*parts] * 20))
        assert all(same(tensor, tensors[name]) for name, tensor in found)

    def test_in_a_forked_process(self, model) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.open_files([path])
            part = streamer.get_slice("layers.1.bias")
            part[0]
            child = os.fork()
            if child == 0:
                os._exit(0 if same(part[...], tensors["layers.1.bias"]) else 1)
            assert os.waitpid(child, 0)[1] == 0

    def test_of_equal_names_the_first_file_counts(self, tmp_path) -> None:
        for value in (1.0, 2.0):
            safetensors.torch.save_file(
                {"t": torch.full((3,), value)}, tmp_path / f"{value}.safetensors"
            )
        with SafetensorsStreamer() as streamer:
            streamer.open_files(list_safetensors(tmp_path))
            assert streamer.get_slice("t")[0] == 1.0

    def test_a_slice_stays_valid_while_others_are_streamed(self, model) -> None:
        path, tensors = model
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path])
            part = streamer.get_slice("layers.2.weight")[4:9]
            assert len(list(streamer.get_tensors())) == 9
        assert same(part, tensors["layers.2.weight"][4:9])


class OfShapes(torch.nn.Module):
    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.fits = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("other", torch.zeros(shape, dtype=dtype))


class TestOneLiners:
    def test_load_file_returns_what_safetensors_does(self, strategy, model) -> None:
        path, tensors = model
        found = load_file(path)
        assert list(found) == list(safetensors.torch.load_file(path)) or set(found) == set(tensors)
        assert all(same(found[name], tensors[name]) for name in tensors)

    def test_load_model_takes_a_file_or_a_directory(self, strategy, tmp_path: Path) -> None:
        source, target = torch.nn.Linear(30, 40), torch.nn.Linear(30, 40)
        safetensors.torch.save_file({"weight": source.weight.data}, tmp_path / "1.safetensors")
        safetensors.torch.save_file({"bias": source.bias.data}, tmp_path / "2.safetensors")
        assert load_model(target, tmp_path) == (set(), [])
        assert torch.equal(source.weight, target.weight)
        assert torch.equal(source.bias, target.bias)
        missing, unexpected = load_model(target, tmp_path / "1.safetensors", strict=False)
        assert (missing, unexpected) == ({"bias"}, [])

    def test_load_model_is_strict_by_default(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(
            {"weight": torch.zeros(2, 2), "other": torch.zeros(1)}, tmp_path / "1.safetensors"
        )
        model = torch.nn.Linear(2, 2)
        before = model.weight.clone()
        with pytest.raises(RuntimeError, match=r"(?s)Missing.*bias.*Unexpected.*other"):
            load_model(model, tmp_path)
        assert torch.equal(model.weight, before)

    def test_load_model_takes_the_shapes_that_torch_takes(self, tmp_path: Path) -> None:
        path = tmp_path / "1.safetensors"
        shapes = [(), (1,), (4,), (1, 4), (4, 1), (2, 2), (1, 1), (0,), (0, 4), (4, 0), (2, 1, 2)]
        taken = 0
        for stored, own, dtype, strict in itertools.product(
            shapes, shapes, [torch.float32, torch.bfloat16], [True, False]
        ):
            number = torch.Size(stored).numel()
            value = torch.arange(1, number + 1, dtype=torch.float32).view(stored)
            # Behind one that fits: nothing of it may be read when the other one does not.
            safetensors.torch.save_file({"fits": torch.ones(3), "other": value}, path)
            models = [OfShapes(own, dtype) for _ in range(2)]
            outcomes: list[object] = []
            for fill, model in zip((safetensors.torch.load_model, load_model), models, strict=True):
                try:
                    missing, unexpected = fill(model, path, strict=strict)
                    outcomes.append((set(missing), list(unexpected)))
                except RuntimeError as error:
                    outcomes.append(str(error))
                except IndexError:  # of torch 2.3, which looks for a first element
                    outcomes.append(None)
            assert outcomes[0] == outcomes[1], (stored, own)
            mine = models[1]
            if outcomes[1] is None:
                continue
            if isinstance(outcomes[1], str):
                sizes = f"{torch.Size(stored)} from checkpoint, the shape in current model is "
                assert sizes + f"{torch.Size(own)}." in outcomes[1]
                assert torch.equal(mine.fits, torch.zeros(3))
                assert torch.equal(mine.other, torch.zeros(own, dtype=dtype))
            else:
                taken += 1
                assert torch.equal(mine.fits, torch.ones(3))
                assert torch.equal(mine.other, models[0].other)
        # One element for a tensor without dimensions, and in torch 2.3 the first of several.
        assert taken - 4 * len(shapes) in (4, 8)

    @pytest.mark.parametrize("strict", [True, False])
    def test_load_model_names_the_sizes(self, strict, tmp_path: Path) -> None:
        path = tmp_path / "1.safetensors"
        safetensors.torch.save_file({"weight": torch.ones(3, 1), "more": torch.ones(1)}, path)
        with pytest.raises(RuntimeError, match=r"Linear:\n\tsize mismatch for weight: copying"):
            load_model(torch.nn.Linear(3, 3), path, strict)

    def test_load_model_converts_what_does_not_fit(self, tmp_path: Path) -> None:
        source = torch.nn.Linear(3, 4)
        safetensors.torch.save_file(source.state_dict(), tmp_path / "1.safetensors")
        target = torch.nn.Linear(3, 4).to(torch.bfloat16)
        load_model(target, tmp_path / "1.safetensors")
        assert torch.equal(target.weight, source.weight.to(torch.bfloat16))

    def test_load_model_fills_tied_weights(self, tmp_path: Path) -> None:
        class Tied(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = torch.nn.Embedding(5, 3)
                self.head = torch.nn.Linear(3, 5, bias=False)
                self.head.weight = self.embed.weight

        source, target = Tied(), Tied()
        safetensors.torch.save_file(
            {"embed.weight": source.embed.weight.data}, tmp_path / "1.safetensors"
        )
        assert load_model(target, tmp_path / "1.safetensors") == (set(), [])
        assert torch.equal(target.head.weight, source.embed.weight)

    def test_a_directory_without_files_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(StreamerError, match="no safetensors files"):
            load_model(torch.nn.Linear(1, 1), tmp_path)


class TestDestinationsThatAreNotFilled:
    @pytest.fixture(params=["host", "moved"])
    def into(self, request, model, monkeypatch) -> dict[str, torch.Tensor]:
        if request.param == "moved":
            monkeypatch.setattr(
                registry, "sink_for", lambda _: MovedSink(torch.device("cpu"), "elsewhere")
            )
        return {name: torch.full_like(t, 9) for name, t in model[1].items() if "bias" not in name}

    def test_leaving_the_block_is_an_error(self, strategy, model, into) -> None:
        streamer = SafetensorsStreamer()
        with pytest.raises(ValueError, match="6 of 6 destinations were not filled"), streamer:
            streamer.stream_files([model[0]], into=into)
        with pytest.raises(ValueError, match="nothing is being streamed"):
            streamer.get_tensors()  # it was closed

    def test_leaving_before_the_last_destination_is_an_error(self, model, into) -> None:
        """Every number of tensors is taken once; only the last destination makes the difference."""
        last = max(i for i, name in enumerate(sorted_names(model[0])) if name in into)
        for taken in range(len(model[1]) + 1):
            streamer = SafetensorsStreamer()
            try:
                with streamer:
                    streamer.stream_files([model[0]], into=into)
                    list(itertools.islice(streamer.get_tensors(), taken))
                complete = True
            except ValueError as error:
                assert "were not filled" in str(error)
                complete = False
            if complete:
                assert all(same(into[name], model[1][name]) for name in into)
            if taken > last:
                assert complete
            for tensor in into.values():
                tensor.fill_(9)

    def test_wait_fills_them(self, strategy, model, into) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([model[0]], into=into)
            streamer.wait()
            streamer.wait()
        assert all(same(into[name], model[1][name]) for name in into)

    def test_wait_behind_an_iterator(self, model, into) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([model[0]], into=into)
            next(streamer.get_tensors())
            streamer.wait()
        assert all(same(into[name], model[1][name]) for name in into)

    def test_wait_without_a_load(self) -> None:
        with SafetensorsStreamer() as streamer, pytest.raises(ValueError, match="stream_files"):
            streamer.wait()

    def test_an_exception_of_the_block_stays(self, model, into) -> None:
        with pytest.raises(KeyError, match="mine"), SafetensorsStreamer() as streamer:
            streamer.stream_files([model[0]], into=into)
            raise KeyError("mine")

    def test_a_close_inside_the_block_is_a_choice(self, model, into) -> None:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([model[0]], into=into)
            streamer.close()
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([model[0]], into=into)
            streamer.file_streamer.close()


def sorted_names(path: Path) -> list[str]:
    with SafetensorsStreamer() as streamer:
        streamer.open_files([path])
        return streamer.keys()

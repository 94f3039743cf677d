"""load_model() compared with safetensors.torch.load_model() and Module.load_state_dict()."""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from runai_model_streamer import (
    SafetensorsStreamer,
    StreamerError,
    StreamerUnsupportedError,
    _module_plan,
    load_model,
)
from runai_model_streamer._formats.safetensors.into import has_plain_memory
from runai_model_streamer._session import Session
from tests.support.models import same, write
from tests.support.module_zoo import (
    ZOO,
    Extra,
    Plain,
    Quantised,
    WithQuantised,
    Wrapped,
    inference_tensors,
    overlapping,
    views,
)
from tests.support.processes import python

Tensors = dict[str, torch.Tensor]


def values_for(module: nn.Module) -> Tensors:
    """A checkpoint of `module`: random values for whatever its state_dict() names."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor) and not nn.parameter.is_lazy(tensor):
            drawn = torch.randint(1, 9, tensor.shape, generator=generator)
            found[name] = drawn.to(torch.float32 if tensor.is_quantized else tensor.dtype)
    return found


Change = Callable[[Tensors], Tensors]


def first_changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def changed(state: Tensors) -> Tensors:
        first = next(iter(state))
        return state | {first: change(state[first]).contiguous()}

    return changed


def without_first(state: Tensors) -> Tensors:
    return dict(list(state.items())[1:])


CHANGES: dict[str, Change] = {
    "same": lambda state: state,
    "missing": without_first,
    "unexpected": lambda state: state | {"other.deep.weight": torch.ones(2), "o": torch.ones(1)},
    "both": lambda state: without_first(state) | {"first.more": torch.ones(2)},
    "dtype": first_changed(lambda tensor: tensor.double()),
    "integer": first_changed(lambda tensor: tensor.to(torch.int64)),
    "shape": first_changed(lambda tensor: torch.ones(*tensor.shape, 2, dtype=tensor.dtype)),
    "broadcast": first_changed(lambda tensor: torch.ones(1, dtype=tensor.dtype)),
    "shape and more": lambda state: first_changed(lambda tensor: torch.ones(9, 9))(state)
    | {"more": torch.ones(1)},
    "none's name": lambda state: state
    | {"absent": torch.ones(1), "gone.weight": torch.ones(1), "nothing": torch.ones(2)},
    "not persistent": lambda state: state | {"cache": torch.ones(2)},
    "renamed": lambda state: {
        name.replace("inner.weight", "inner.gamma"): tensor for name, tensor in state.items()
    },
    "below a module": lambda state: state | {"module.inner.weight": torch.ones(2, 2)},
    "extra state": lambda state: state | {"1._extra_state": torch.ones(2)},
    "one of the tied": lambda state: {
        name: tensor for name, tensor in state.items() if name == "head.weight"
    } or state,
    "nothing": lambda state: {"only.this": torch.ones(1)},
    "lazy": lambda state: state | {"0.weight": torch.ones(4, 7), "0.bias": torch.ones(4)},
}  # fmt: skip


# What ours says behind the text of safetensors.
PATH_AND_CURE = re.compile(r"\n    \S+: \d+ missing, \d+ unexpected\. Pass the checkpoint .*")


def outcome(load: Callable[..., Any], *rest: Any, **options: Any) -> tuple[Any, list[str]]:
    """What a load returns or raises, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            missing, unexpected = load(*rest, **options)
            result: Any = set(missing), list(unexpected)
        except Exception as error:
            result = type(error), PATH_AND_CURE.sub("", str(error))
    return result, [str(warning.message) for warning in caught]


def contents(module: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in (module.named_parameters, module.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            if nn.parameter.is_lazy(tensor):
                found[name] = "lazy"
                continue
            data = None
            if not tensor.is_meta:
                data = tensor.detach().clone(memory_format=torch.contiguous_format).resolve_conj()
            found[name] = (type(tensor), tensor.dtype, tensor.shape, tensor.requires_grad, data)
    for name, child in module.named_modules():
        if isinstance(child, Extra):
            found[name] = (torch.Tensor, child.extra.dtype, child.extra.shape, False, child.extra)
    return found


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if list(one) != list(other):
        return False
    for mine, theirs in zip(one.values(), other.values(), strict=True):
        if "lazy" in (mine, theirs):
            if mine != theirs:
                return False
            continue
        (*kind, data), (*other_kind, other_data) = mine, theirs
        if kind != other_kind or (data is None) != (other_data is None):
            return False
        if data is not None and not same(data, other_data):
            return False
    return True


def reference(module: nn.Module, path: Path, strict: bool, assign: bool) -> Any:
    """The outcome of safetensors; of load_state_dict() if safetensors refuses the module."""
    kept = module.state_dict()
    try:
        safetensors.torch._remove_duplicate_names(kept)
        refused = False
    except (AttributeError, RuntimeError, ValueError):
        refused = True
    if not assign and not refused:
        return safetensors.torch.load_model(module, path, strict)
    state = safetensors.torch.load_file(path)
    missing, unexpected = module.load_state_dict(state, strict=False, assign=assign)
    if strict and (missing or unexpected):
        raise RuntimeError
    return missing, unexpected


@pytest.mark.parametrize("assign", [False, True], ids=["copy", "assign"])
@pytest.mark.parametrize("animal", ZOO)
def test_the_outcome_is_that_of_torch(animal: str, assign: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for change, strict in itertools.product(CHANGES, (True, False)):
        modules = []
        for _ in range(2):
            torch.manual_seed(0)
            modules.append(ZOO[animal]())
        mine, theirs = modules
        before = contents(mine)
        state = CHANGES[change](values_for(theirs))
        # Tensors that share memory are two in the file.
        safetensors.torch.save_file({n: t.clone().contiguous() for n, t in state.items()}, path)
        expected, warned = outcome(reference, theirs, path, strict, assign)
        found, warned_too = outcome(load_model, mine, path, strict, assign=assign)
        if expected == (RuntimeError, ""):  # its text is that of this file
            assert found[0] is RuntimeError and "key(s) in state_dict" in found[1]
        else:
            assert found == expected, (change, strict)
        assert sorted(warned_too) == sorted(warned), (change, strict)
        if found[0] is RuntimeError and equal(contents(mine), before):
            continue  # refused before anything was read
        assert equal(contents(mine), contents(theirs)), (change, strict)


def test_a_dtype_that_torch_lacks(tmp_path: Path) -> None:
    entry = {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}
    path = write(tmp_path / "model.safetensors", {"odd": entry}, bytes(3))
    module = nn.Module()
    module.odd = nn.Parameter(torch.zeros(4))
    with pytest.raises(StreamerUnsupportedError, match="'F6_E2M3' of tensor 'odd'") as caught:
        load_model(module, path)
    assert caught.value.path == path


def test_parameters_may_be_swapped(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(values_for(Plain()), path)
    mine, theirs = Plain(), Plain()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        assert load_model(mine, path) == safetensors.torch.load_model(theirs, path)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert equal(contents(mine), contents(theirs))


def test_inference_mode_does_not_matter(tmp_path: Path) -> None:
    mine, theirs = inference_tensors(), inference_tensors()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(values_for(mine), path)
    with torch.inference_mode():
        assert load_model(mine, path) == safetensors.torch.load_model(theirs, path)
    assert equal(contents(mine), contents(theirs))


@pytest.mark.parametrize("make", [views, overlapping])
def test_memory_that_is_shared(make, tmp_path: Path) -> None:
    """safetensors refuses such modules."""
    mine, theirs = make(), make()
    state = {name: tensor.clone() for name, tensor in values_for(mine).items()}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    load_model(mine, path, strict=False)
    theirs.load_state_dict(safetensors.torch.load_file(path))
    assert equal(contents(mine), contents(theirs))


class TestWhatIsRead:
    @pytest.fixture
    def requested(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
        """(size, whether it goes to memory of the module) of each tensor."""
        found: list[tuple[int, bool]] = []
        submit = Session.submit

        def note(self: Session, requests: Any, *rest: Any) -> None:
            for request in requests:
                places = request.destinations or [0] * len(request.sizes)
                found.extend(zip(request.sizes, map(bool, places), strict=True))
            submit(self, requests, *rest)

        monkeypatch.setattr(Session, "submit", note)
        return found

    def test_in_place_where_nothing_else_looks_at_it(self, tmp_path, requested) -> None:
        module = WithQuantised()
        path = tmp_path / "model.safetensors"
        state = {name: t.contiguous() for name, t in values_for(module).items()}
        safetensors.torch.save_file(state, path)
        addresses = {name: t.data_ptr() for name, t in module.named_parameters()}
        load_model(module, path)
        assert {name: t.data_ptr() for name, t in module.named_parameters()} == addresses
        assert sorted(requested) == [(4, False), (16, True), (64, False), (64, True)]

    def test_a_batch_norm_is_read_in_place(self, tmp_path, requested) -> None:
        safetensors.torch.save_file(values_for(nn.BatchNorm1d(4)), tmp_path / "m.safetensors")
        load_model(nn.BatchNorm1d(4), tmp_path / "m.safetensors")
        assert requested and all(in_place for _, in_place in requested)

    @pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
    def test_nothing_for_an_error_that_headers_show(self, tmp_path, requested, change) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file(CHANGES[change](values_for(Plain())), path)
        with pytest.raises(RuntimeError):
            load_model(Plain(), path)
        assert not requested

    def test_a_plan_costs_one_look_at_each_module(self, tmp_path, monkeypatch) -> None:
        module = nn.Sequential(
            nn.ParameterList(torch.zeros(2) for _ in range(300)), nn.Linear(2, 2)
        )
        safetensors.torch.save_file(values_for(module), tmp_path / "model.safetensors")
        looks = []
        look = _module_plan._local_state
        monkeypatch.setattr(_module_plan, "_local_state", lambda m: looks.append(m) or look(m))
        load_model(module, tmp_path / "model.safetensors")
        assert len(looks) <= 2 * len(list(module.modules()))

    def test_nothing_that_nobody_looks_at(self, tmp_path, requested) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file({"other": torch.ones(99)}, path)
        load_model(Plain(), path, strict=False)
        assert not requested

    def test_a_device_without_an_index_matches(self, tmp_path, requested) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file(values_for(Plain()), path)
        for device in ("cpu", "cpu:0", torch.device("cpu")):
            load_model(Plain(), path, device=device)
        assert requested and all(in_place for _, in_place in requested)


class TestAutograd:
    @pytest.mark.parametrize("way", ["load_model", "mapping", "module"])
    def test_a_graph_of_the_old_values_is_refused(self, way, tmp_path: Path) -> None:
        module = nn.Linear(3, 3)
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file(values_for(module), path)
        loss = module(torch.ones(1, 3, requires_grad=True)).square().sum()
        if way == "load_model":
            load_model(module, path)
        else:
            into = module if way == "module" else dict(module.named_parameters())
            with SafetensorsStreamer() as streamer:
                streamer.stream_file(path, into=into)
                streamer.wait()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_a_graph_that_was_made_while_it_loads(self, tmp_path: Path) -> None:
        module = nn.Linear(3, 3)
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file(values_for(module), path)
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path, into=module)
            loss = module(torch.ones(1, 3, requires_grad=True)).square().sum()
            streamer.wait()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


class Wrapper(torch.Tensor):
    """A tensor that wraps another."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        plain = [arg.inner if isinstance(arg, Wrapper) else arg for arg in args]
        result = function(*plain, **(kwargs or {}))
        return Wrapper(result) if isinstance(result, torch.Tensor) else result


def freed() -> torch.Tensor:
    tensor = torch.zeros(4)
    tensor.untyped_storage().resize_(0)
    return tensor


def cut() -> torch.Tensor:
    tensor = torch.zeros(4)
    tensor.untyped_storage().resize_(8)
    return tensor


def fake() -> torch.Tensor:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        return torch.zeros(4)


class TestDestinationsWithoutMemory:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: Wrapper(torch.zeros(4)),
            freed,
            cut,
            fake,
            lambda: torch.zeros(4, dtype=torch.complex64).conj(),
            lambda: torch._neg_view(torch.zeros(4)),
            nn.UninitializedParameter,
        ],
        ids=["wrapper", "freed", "cut", "fake", "conjugate", "negative", "lazy"],
    )
    def test_they_are_refused(self, make, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        target = make()
        lazy = isinstance(target, nn.UninitializedParameter)
        dtype = torch.float32 if lazy else target.dtype
        safetensors.torch.save_file({"t": torch.ones(4, dtype=dtype)}, path)
        with SafetensorsStreamer() as streamer:
            with pytest.raises(StreamerError, match=r"no memory|not initialised") as caught:
                streamer.stream_file(path, into={"t": target})
            assert "'t'" in str(caught.value)

    def test_subclasses_with_memory_are_filled(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file({"t": torch.ones(3)}, path)
        target = Wrapped(torch.zeros(3))
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path, into={"t": target})
            streamer.wait()
        assert torch.equal(target.data, torch.ones(3))
        assert has_plain_memory(target)

    def test_a_state_that_the_module_makes(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        module = Quantised()
        safetensors.torch.save_file(values_for(module), path)
        with SafetensorsStreamer() as streamer, pytest.raises(StreamerError, match="load_model"):
            streamer.stream_file(path, into=module)

    def test_a_distributed_tensor_has_no_plain_memory(self, tmp_path: Path) -> None:
        from torch.distributed._tensor import DTensor

        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file({"t": torch.ones(4)}, path)
        target = torch.zeros(4).as_subclass(DTensor)
        assert not has_plain_memory(target)

    @pytest.mark.parametrize("into", [[1], "name", 3])
    def test_what_is_neither_mapping_nor_module(self, into, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file({"t": torch.ones(4)}, path)
        with SafetensorsStreamer() as streamer, pytest.raises(StreamerError, match="into takes"):
            streamer.stream_file(path, into=into)


def test_the_zoo_can_tell(tmp_path: Path) -> None:
    """The comparison sees a value, a kind and a shape that differ."""
    one = Plain()
    other = copy.deepcopy(one)
    assert equal(contents(one), contents(other))
    with torch.no_grad():
        other.scale[0] = 5
    assert not equal(contents(one), contents(other))
    assert not equal(contents(one), contents(copy.deepcopy(one).requires_grad_(False)))


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
try:
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
except ImportError:  # before torch 2.5
    from torch.distributed._tensor import DTensor, Replicate, Shard, distribute_tensor
from runai_model_streamer import load_model
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2, 1))
whole = {name: torch.arange(15.0).view(5, 3) for name in "abcd"}
placements = {"a": [Shard(0), Replicate()], "b": [Shard(1), Shard(0)], "c": [Replicate()] * 2,
              "d": [Shard(1), Shard(1)]}
for assign in (False, True):
    model = torch.nn.Module()
    for name, places in placements.items():
        own = distribute_tensor(torch.zeros(5, 3), mesh, places)
        model.register_parameter(name, torch.nn.Parameter(own))
    assert load_model(model, path, assign=assign) == (set(), [])
    for name, parameter in model.named_parameters():
        assert isinstance(parameter.data, DTensor)
        assert parameter.placements == tuple(placements[name])
        assert torch.equal(parameter.full_tensor(), whole[name]), name
model.register_parameter("e", torch.nn.Parameter(torch.zeros(1)))
try:
    load_model(model, path)
except RuntimeError as error:
    assert 'Missing key(s) in state_dict: "e"' in str(error)
else:
    raise AssertionError
dist.destroy_process_group()
"""


def test_distributed_tensors_take_their_shards(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    whole = {name: torch.arange(15.0).view(5, 3) for name in "abcd"}
    safetensors.torch.save_file(whole, path)
    with ThreadPoolExecutor(2) as pool:
        ranks = [pool.submit(python, SHARDED, rank, path, tmp_path / "store") for rank in range(2)]
        for rank in ranks:
            rank.result()

"""One-line loading, in the style of safetensors.torch."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial

import torch

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._dtensor import is_dtensor, local_of, with_local
from runai_model_streamer._errors import shown_path
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.into import (
    copy_converted,
    has_plain_memory,
    same_device,
    span_of,
)
from runai_model_streamer._formats.safetensors.selection import (
    NamesOfFiles,
    TensorsOfCheckpoint,
    by_name,
    refuse_lacking,
)
from runai_model_streamer._formats.safetensors.slices import Parts
from runai_model_streamer._formats.safetensors.torch_dtypes import safetensors_to_torch_dtype
from runai_model_streamer._key_map import (
    Assembly,
    KeyMap,
    Places,
    assemble,
    group_by_target,
    map_names,
)
from runai_model_streamer._module_plan import Plan, make_plan
from runai_model_streamer._paths import Path, to_text
from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._session import Ownership
from runai_model_streamer._spans import Along
from runai_model_streamer._storage.checkpoint import find_checkpoint
from runai_model_streamer._torch import device_of
from runai_model_streamer._verify.manifest import Verify


def load_file(
    filename: Path,
    device: str | torch.device | int = "cpu",
    s3_credentials: S3Credentials | None = None,
    *,
    verify: Verify | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of the file or object `filename`, by name, in memory of their own.

    `verify` is that of SafetensorsStreamer.stream_files().
    """
    target = device_of(device)
    with SafetensorsStreamer() as streamer:
        # Every tensor is kept: a view would be copied later anyway.
        names = [to_text(filename)]
        streamer._stream(
            names, s3_credentials, target, None, ownership=Ownership.COPIED, verify=verify
        )
        return dict(streamer.get_tensors())


def load_checkpoint(
    path: Path,
    device: str | torch.device | int = "cpu",
    s3_credentials: S3Credentials | None = None,
    *,
    variant: str | None = None,
    verify: Verify | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint at `path`, by name, in file order.

    `path` and `variant` are those of list_checkpoint(), `verify` is that of
    SafetensorsStreamer.stream_files(). With an index, each tensor is read from the
    file that the index names; what the index does not name is not read.

    Raises SafetensorsHeaderError if the index names a tensor that its file does not have.
    """
    target = device_of(device)
    checkpoint = find_checkpoint(path, s3_credentials, variant)
    with SafetensorsStreamer() as streamer:
        streamer._stream(
            checkpoint.files,
            s3_credentials,
            target,
            TensorsOfCheckpoint(checkpoint.index),
            ownership=Ownership.COPIED,  # as in load_file()
            verify=verify,
        )
        return dict(streamer.get_tensors())


def load_model(
    model: torch.nn.Module,
    path: Path,
    strict: bool = True,
    device: str | torch.device | int = "cpu",
    s3_credentials: S3Credentials | None = None,
    *,
    assign: bool = False,
    variant: str | None = None,
    key_map: KeyMap | None = None,
    verify: Verify | None = None,
) -> tuple[set[str], list[str]]:
    """Fills `model` from the checkpoint at `path`: a file, an index, a directory, or a pattern.

    `path` and `variant` are those of list_checkpoint(). With an index, each tensor is read from the
    file that the index names; what the index does not name is not read.

    The outcome is that of ``model.load_state_dict()``: hooks and methods of the model's own are
    called, dtypes are converted. Tensors that only the module uses are read straight into its
    memory. Tensors that share memory need to be in the files once. `device` is where the
    tensors are read to, best that of the model's. With `assign`, the module gets the tensors of the
    files instead of their values; a module on "meta" needs that. Of a tensor for a DTensor only the
    shard of this rank is read, without communication.

    `key_map` is called with each name of the checkpoint, and returns the name in the model, a
    Target if the tensor is a part of a parameter (of a fused layout), or None if it is not wanted.
    Parts are read straight to their place if that is contiguous. See docs/guides/slices.md.

    `verify` is that of SafetensorsStreamer.stream_files(); if a file does not match the manifest,
    the module holds a part of it.

    Returns the names that are missing in the files and those that the model does not have.

    Raises:
        SafetensorsHeaderError: with `strict`, the index names a tensor that its file does not have.
        RuntimeError: load_state_dict() refuses a tensor or, with `strict`, names are missing or
            unexpected; the text is that of torch or of safetensors, with the path behind names
            that are missing or unexpected. Unless hooks or methods of the
            model's own decide about it, nothing was read then, and the model is as it was.
    """
    target = device_of(device)
    checkpoint = find_checkpoint(path, s3_credentials, variant)
    with SafetensorsStreamer() as streamer:
        streamer.open_files(checkpoint.files, s3_credentials)
        places = by_name(streamer._files, checkpoint.index)
        if strict:
            refuse_lacking(
                checkpoint.index,
                places,
                lambda name: key_map is None or key_map(name) is not None,
            )
        mapped = _map(model, places, key_map)
        found = mapped.found
        ties = [] if assign else _find_ties(model, found)
        plan = make_plan(model, found, target, assign)
        if plan.certain and (plan.mismatch or (strict and _misfits(plan, ties, found))):
            # No tensor is needed for the error: a tensor that is copied to itself stays as it is.
            _finish(model, _state(found, plan), ties, strict, assign, path)
        state = _state(found, plan)
        reading = _Reading(state, plan, target)
        for name in found.keys() - plan.unread:
            if name in mapped.assemblies:
                reading.assemble(name, mapped.assemblies[name])
            else:
                reading.take(name, mapped.names[name])
        if reading.wanted:
            streamer._stream(
                checkpoint.files,
                s3_credentials,
                target,
                _selection((name, places[name][0]) for name in reading.wanted),
                reading.into or None,
                ownership=Ownership.COPIED,  # converted here: a truncation must be no signal
                slices=Parts(reading.parts),
                verify=verify,
            )
            for name, tensor in streamer.get_tensors():
                if name not in reading.into:
                    reading.wanted[name](tensor)
        return _finish(model, state, ties, strict, assign, path)


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A checkpoint by the names of the model."""

    found: dict[str, SafetensorMetadata]
    names: dict[str, str]
    """Those of the checkpoint."""
    assemblies: dict[str, Assembly]


def _map(model: torch.nn.Module, places: Places, key_map: KeyMap | None) -> _Mapped:
    tensors = {name: tensor for name, (_, tensor) in places.items()}
    if key_map is None:
        return _Mapped(tensors, {name: name for name in tensors}, {})
    targets = map_names(places, key_map)
    names, parts = group_by_target(targets, places)
    own = model.state_dict(keep_vars=True) if parts else {}
    found = {target: tensors[name] for target, name in names.items()}
    assemblies = {}
    for target, sources in parts.items():
        tensor = own.get(target)
        if not isinstance(tensor, torch.Tensor) or torch.nn.parameter.is_lazy(tensor):
            found[target] = tensors[sources[0]]  # the model has no such tensor: torch raises
            names[target] = sources[0]
            continue
        assemblies[target] = assemble(tensor, sources, targets, places)
        found[target] = assemblies[target].described
    return _Mapped(found, names, assemblies)


class _Reading:
    """The tensors that are read for a model, and their places. Names are those of the checkpoint,
    but for `name`, which is that of the model."""

    def __init__(self, state: dict[str, torch.Tensor], plan: Plan, device: torch.device) -> None:
        self.into: dict[str, torch.Tensor] = {}
        self.parts: dict[str, list[Along]] = {}
        self.wanted: dict[str, Callable[[torch.Tensor], None]] = {}
        """The handling of a tensor that is not in `into`."""
        self._state, self._plan, self._device = state, plan, device

    def take(self, name: str, source: str) -> None:
        """Reads `source` as `name`."""
        plan = self._plan
        if name in plan.in_place:
            self.into[source] = plan.in_place[name]  # of a DTensor, `into` finds the part
        elif name in plan.parts:
            self.parts[source] = plan.parts[name]
        self.wanted[source] = partial(self._give, name)

    def _give(self, name: str, tensor: torch.Tensor) -> None:
        if name in self._plan.parts:
            tensor = with_local(self._plan.own[name], tensor)
        elif _copied(self._plan.copied.get(name), tensor):
            return
        self._state[name] = tensor

    def assemble(self, name: str, assembly: Assembly) -> None:
        """Reads the pieces of `name` to their places."""
        own = self._plan.own[name]
        dtype = assembly.described.get_torch_dtype()
        if name in self._plan.given:
            local = local_of(own)
            memory = torch.empty(local.shape, dtype=dtype, device=self._device)
            self._state[name] = with_local(own, memory) if is_dtensor(own) else memory
        else:
            memory = local_of(own)
        for piece in assembly.pieces:
            place = piece.of(memory)
            self.parts[piece.name] = piece.source
            if (
                place.is_contiguous()
                and place.dtype == dtype
                and same_device(place.device, self._device)
            ):
                self.into[piece.name] = place
            self.wanted[piece.name] = partial(copy_converted, piece.path, piece.name, place)


def _selection(names: Iterable[tuple[str, str]]) -> NamesOfFiles:
    """Of pairs of a name and the path of its file."""
    of_files: dict[str, set[str]] = defaultdict(set)
    for name, path in names:
        of_files[path].add(name)
    return NamesOfFiles(of_files)


def _misfits(plan: Plan, ties: Sequence[list[str]], found: Container[str]) -> bool:
    """True if names are missing or unexpected."""
    tied = {name for others in ties for name in others}
    return plan.unexpected or not plan.missing <= tied or any(name in found for name in tied)


def _state(found: Mapping[str, SafetensorMetadata], plan: Plan) -> dict[str, torch.Tensor]:
    """A state dict of the tensors of the module itself, and of others of the right shape."""
    own = plan.own
    return {
        name: own[name] if name in own else _without_memory(tensor, name in plan.warned)
        for name, tensor in found.items()
    }


def _without_memory(tensor: SafetensorMetadata, on_host: bool) -> torch.Tensor:
    """A tensor of that shape and dtype without values. Reading it is an error of torch, unless it
    is `on_host`, which some warnings of torch need."""
    dtype = safetensors_to_torch_dtype.get(tensor.dtype, torch.uint8)
    element = torch.empty((), dtype=dtype, device="cpu" if on_host else "meta")
    return element.expand(tensor.get_torch_shape())


def _copied(own: torch.Tensor | None, tensor: torch.Tensor) -> bool:
    """Copies `tensor`, as load_state_dict() does. False if load_state_dict() has to raise the
    error."""
    if own is None:
        return False
    try:
        with torch.no_grad():
            own.copy_(tensor.view(own.shape))
    except Exception:
        return False
    return True


def _finish(
    model: torch.nn.Module,
    state: dict[str, torch.Tensor],
    ties: Sequence[list[str]],
    strict: bool,
    assign: bool,
    path: Path,
) -> tuple[set[str], list[str]]:
    options = {"assign": True} if assign else {}
    result = model.load_state_dict(state, strict=False, **options)
    missing, unexpected = set(result.missing_keys), list(result.unexpected_keys)
    for others in ties:
        for name in others:
            if name in missing:
                missing.remove(name)
            else:
                unexpected.append(name)
    if strict and (missing or unexpected):
        text = f"Error(s) in loading state_dict for {type(model).__name__}:"
        if missing:
            text += f"\n    Missing key(s) in state_dict: {_quoted(missing)}"
        if unexpected:
            text += f"\n    Unexpected key(s) in state_dict: {_quoted(unexpected)}"
        counts = f"{len(missing)} missing, {len(unexpected)} unexpected"
        text += (
            f"\n    {shown_path(to_text(path))}: {counts}. Pass the checkpoint of this model, "
            "key_map for other names, or strict=False"
        )
        raise RuntimeError(text)
    return missing, unexpected


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names))


def _find_ties(model: torch.nn.Module, found: Mapping[str, SafetensorMetadata]) -> list[list[str]]:
    """The names of tensors of `model` whose memory overlaps, without the one of each group that
    the files are to have: as safetensors chooses it."""
    groups: list[list[str]] = []
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, torch.Tensor) and has_plain_memory(tensor) and tensor.numel() > 0
    }
    reach, at = 0, None
    for device, (start, end), name in sorted(
        (str(tensor.device), span_of(tensor), name) for name, tensor in state.items()
    ):
        if device == at and start < reach:
            groups[-1].append(name)
        else:
            groups.append([name])
            reach, at = 0, device
        reach = max(reach, end)
    ties = []
    for group in groups:
        if len(group) > 1:
            whole = [name for name in group if _is_whole(state[name])] or group
            kept = min([name for name in whole if name in found] or whole)
            ties.append(sorted(set(group) - {kept}))
    return ties


def _is_whole(tensor: torch.Tensor) -> bool:
    return tensor.nbytes == tensor.untyped_storage().nbytes()

"""One-line loading, in the style of safetensors.torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

import torch

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device.registry import device_of
from runai_model_streamer._dtensor import shard_like
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.into import has_plain_memory, span_of
from runai_model_streamer._formats.safetensors.selection import NamesOfFiles, by_name
from runai_model_streamer._formats.safetensors.torch_dtypes import safetensors_to_torch_dtype
from runai_model_streamer._module_plan import Plan, make_plan
from runai_model_streamer._paths import Path, to_text
from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._session import Ownership
from runai_model_streamer._storage.checkpoint import Checkpoint, find_checkpoint


def load_file(
    filename: Path,
    device: str | torch.device | int = "cpu",
    s3_credentials: S3Credentials | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of the file or object `filename`, by name, in memory of their own."""
    target = device_of(device)
    with SafetensorsStreamer() as streamer:
        # Every tensor is kept: a view would be copied in the end, too, and later.
        names = [to_text(filename)]
        streamer._stream(names, s3_credentials, target, None, ownership=Ownership.COPIED)
        return dict(streamer.get_tensors())


def load_checkpoint(
    path: Path,
    device: str | torch.device | int = "cpu",
    s3_credentials: S3Credentials | None = None,
    *,
    variant: str | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint at `path`, by name, in file order.

    `path` and `variant` are those of list_checkpoint(). With an index, each tensor is read from the
    file that the index names; what the index does not name is not read.
    """
    target = device_of(device)
    checkpoint = find_checkpoint(path, s3_credentials, variant)
    with SafetensorsStreamer() as streamer:
        streamer.open_files(checkpoint.files, s3_credentials)
        places = _find_tensors(streamer, checkpoint)
        if not places:
            return {}
        streamer._stream(
            checkpoint.files,
            s3_credentials,
            target,
            _selection((name, path) for name, (path, _) in places.items()),
            ownership=Ownership.COPIED,  # as in load_file()
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
) -> tuple[set[str], list[str]]:
    """Fills `model` from the checkpoint at `path`: a file, an index, a directory, or a pattern.

    `path` and `variant` are those of list_checkpoint(). With an index, each tensor is read from the
    file that the index names; what the index does not name is not read.

    The outcome is that of ``model.load_state_dict()``: hooks and methods of the model's own are
    called, dtypes are converted. Tensors that nothing but the module looks at are read straight
    into its memory. Tensors that share memory need to be in the files once. `device` is where the
    tensors are read to, best that of the model's. With `assign`, the module gets the tensors of the
    files instead of their values; a module on "meta" needs that. A DTensor takes its shard of the
    tensor, without communication.

    Returns the names that are missing in the files and those that the model does not have.

    Raises:
        RuntimeError: load_state_dict() refuses a tensor or, with `strict`, names are missing or
            unexpected; the text is that of torch or of safetensors. Unless hooks or methods of the
            model's own decide about it, nothing was read then, and the model is as it was.
    """
    target = device_of(device)
    checkpoint = find_checkpoint(path, s3_credentials, variant)
    with SafetensorsStreamer() as streamer:
        streamer.open_files(checkpoint.files, s3_credentials)
        places = _find_tensors(streamer, checkpoint)
        found = {name: tensor for name, (_, tensor) in places.items()}
        ties = [] if assign else _find_ties(model, found)
        plan = make_plan(model, found, target, assign)
        if plan.certain and (plan.mismatch or (strict and _misfits(plan, ties, found))):
            # No tensor is needed for the error: a tensor that is copied to itself stays as it is.
            _finish(model, _state(found, plan), ties, strict, assign)
        state = _state(found, plan)
        wanted = found.keys() - plan.unread
        if wanted:
            streamer._stream(
                checkpoint.files,
                s3_credentials,
                target,
                _selection((name, places[name][0]) for name in wanted),
                plan.in_place or None,
                ownership=Ownership.COPIED,  # converted here: a truncation must be no signal
            )
            for name, tensor in streamer.get_tensors():
                if name not in plan.in_place and not _copied(plan.copied.get(name), tensor):
                    state[name] = shard_like(plan.own.get(name), tensor)
        return _finish(model, state, ties, strict, assign)


def _find_tensors(
    streamer: SafetensorsStreamer, checkpoint: Checkpoint
) -> dict[str, tuple[str, SafetensorMetadata]]:
    """The file and the tensor of each name of a checkpoint, of which all files are open."""
    headers = streamer.files_to_tensors_metadata.values()
    return by_name(zip(checkpoint.files, headers, strict=True), checkpoint.place_of)


def _selection(names: Iterable[tuple[str, str]]) -> NamesOfFiles:
    """Of pairs of a name and the path of its file."""
    of_files: dict[str, set[str]] = defaultdict(set)
    for name, path in names:
        of_files[path].add(name)
    return NamesOfFiles(of_files)


def _misfits(plan: Plan, ties: Sequence[list[str]], found: Container[str]) -> bool:
    """Whether names are missing or unexpected."""
    tied = {name for others in ties for name in others}
    return plan.unexpected or not plan.missing <= tied or any(name in found for name in tied)


def _state(found: Mapping[str, SafetensorMetadata], plan: Plan) -> dict[str, torch.Tensor]:
    """A state dict of the tensors of the module itself, and of others of the right shape."""
    own = plan.own
    return {
        name: own[name] if name in own else _without_memory(tensor)
        for name, tensor in found.items()
    }


def _without_memory(tensor: SafetensorMetadata) -> torch.Tensor:
    dtype = safetensors_to_torch_dtype.get(tensor.dtype, torch.uint8)
    element = torch.empty((), dtype=dtype, device="cpu")
    return element.expand(tensor.get_torch_shape())


def _copied(own: torch.Tensor | None, tensor: torch.Tensor) -> bool:
    """Copies `tensor`, as load_state_dict() does. False if that has to be told why it can't."""
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

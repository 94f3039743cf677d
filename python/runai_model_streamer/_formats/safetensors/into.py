"""Reading into memory that exists: the tensors of a mapping, or the parameters of a module."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import torch
from torch.nn.parameter import is_lazy

from runai_model_streamer._dtensor import is_dtensor, local_of, local_part
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerUnsupportedError,
    of_file,
    shown_path,
)
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.slices import narrow

Into = Mapping[str, torch.Tensor] | torch.nn.Module


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The checked destinations, by the names of the tensors."""

    targets: dict[str, torch.Tensor]
    """The memory: of a DTensor its local tensor."""
    distributed: dict[str, torch.Tensor]
    """The DTensors among the destinations."""
    files: list[list[SafetensorMetadata]]
    """The tensors to read, by file: of a tensor for a DTensor the part that this rank holds."""


Found = Mapping[str, tuple[str, SafetensorMetadata]]
"""The path of the file and the tensor of each name."""


def resolve(
    into: Into,
    files: Sequence[list[SafetensorMetadata]],
    paths: Sequence[str],
    device: torch.device,
) -> Resolved:
    """The destination of each tensor of `files`, which are at `paths`, that has one.

    Of a mapping every name must stand in exactly one of `files`. Of a module every parameter must,
    or one that shares its memory; its buffers may.
    """
    found: dict[str, tuple[str, SafetensorMetadata]] = {}
    for path, file in zip(paths, files, strict=True):
        for tensor in file:
            if tensor.name in found:
                raise RunaiStreamerInvalidInputException(
                    f"{path}: into: {tensor.name!r} is in more than one file (duplicate): in "
                    f"{shown_path(found[tensor.name][0])!r} too",
                    path=path,
                )
            found[tensor.name] = path, tensor
    if isinstance(into, torch.nn.Module):
        targets = _of_module(into, found, device)
    elif isinstance(into, Mapping):
        targets = dict(into)
        missing = [name for name in targets if name not in found]
        if missing:
            raise RunaiStreamerInvalidInputException(
                f"into: the files have no tensor {missing[0]!r}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            )
        for name, target in targets.items():
            _check(name, target, found[name], device)
    else:
        raise RunaiStreamerInvalidInputException(
            f"into takes a mapping of names to tensors or a module, not {type(into).__name__}"
        )
    distributed = {name: target for name, target in targets.items() if is_dtensor(target)}
    parts = {name: _part_for(name, one, *found[name]) for name, one in distributed.items()}
    targets = {name: local_of(target) for name, target in targets.items()}
    for name, part in parts.items():
        try:
            _check_memory(name, targets[name], part, device)
        except RunaiStreamerInvalidInputException as error:
            raise of_file(error, found[name][0]) from None
    _check_apart(targets)
    return Resolved(
        targets,
        distributed,
        [[parts.get(tensor.name, tensor) for tensor in file] for file in files],
    )


def _part_for(
    name: str, target: torch.Tensor, path: str, tensor: SafetensorMetadata
) -> SafetensorMetadata:
    part = local_part(target)
    if part is None:
        raise RunaiStreamerInvalidInputException(
            f"{path}: into: the destination of {name!r} is a DTensor of which this rank holds no "
            f"part that can be read ({target.placements} of a mesh of "  # type: ignore[attr-defined]
            f"{tuple(target.device_mesh.shape)})",  # type: ignore[attr-defined]
            path=path,
        )
    return narrow(tensor, part)


def _of_module(
    module: torch.nn.Module, found: Found, device: torch.device
) -> dict[str, torch.Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    own = {id(tensor) for tensor in itertools.chain(parameters.values(), module.buffers())}
    targets: dict[str, torch.Tensor] = {}
    taken: set[tuple[int, int]] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name not in found:
            continue
        if id(tensor) not in own:
            raise RunaiStreamerInvalidInputException(
                f"{found[name][0]}: into: the destination of {name!r} is not a parameter or a "
                "buffer of the module, whose state_dict() makes it: load_model() loads it",
                path=found[name][0],
            )
        _check(name, tensor, found[name], device)
        local = local_of(tensor)
        if local.numel() == 0 or span_of(local) not in taken:
            targets[name] = tensor
            taken.add(span_of(local))
    missing = [
        name
        for name, parameter in parameters.items()
        if name not in found and not _is_in(parameter, taken)
    ]
    if missing:
        raise RunaiStreamerInvalidInputException(
            f"into: the files have no tensor for the parameter {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ". Give a mapping of names to tensors to fill a part of the module"
        )
    return targets


def _is_in(parameter: torch.Tensor, taken: set[tuple[int, int]]) -> bool:
    parameter = local_of(parameter)
    if not has_plain_memory(parameter):
        return False
    return parameter.numel() == 0 or span_of(parameter) in taken


def has_plain_memory(tensor: torch.Tensor) -> bool:
    """True if all elements of `tensor` are in memory at its data_ptr(), as they are.

    Not so for meta and sparse tensors, lazy parameters, tensors that wrap others (DTensor), lazily
    conjugated ones, and those whose storage was freed.
    """
    if is_lazy(tensor):
        return False
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
        return False
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) and not _is_thin(tensor):
        return False
    if tensor.numel() == 0:
        return True
    try:
        storage = tensor.untyped_storage()
        held, start = storage.nbytes(), tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # of a functorch transform
        return False
    needed = (tensor.storage_offset() + _extent(tensor)) * tensor.element_size()
    return start != 0 and needed <= held


def _is_thin(tensor: torch.Tensor) -> bool:
    """True if a subclass adds attributes or functions, but holds its elements itself."""
    return type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def span_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte of a tensor with plain memory, and behind the last one."""
    start = tensor.data_ptr()
    return start, start + _extent(tensor) * tensor.element_size()


def _extent(tensor: torch.Tensor) -> int:
    """Elements from the first one to the last one in memory."""
    if tensor.numel() == 0:
        return 0
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in strides)


def same_device(own: torch.device, device: torch.device) -> bool:
    """True if a tensor on `own` is on `device`, which may have no index."""
    return own.type == device.type and (
        device.index is None or own.index is None or own.index == device.index
    )


def copy_converted(path: str, name: str, target: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copies `tensor`, which is `name` of the file at `path`, to `target`, of any dtype."""
    try:
        with torch.no_grad():
            target.copy_(tensor)
    except NotImplementedError as error:
        raise StreamerUnsupportedError(
            f"{path}: torch can't convert {name!r} from {tensor.dtype} to {target.dtype}. Load it "
            f"to a tensor of {tensor.dtype}",
            code="unsupported",
            path=path,
        ) from error


def note_writes(tensors: Iterable[torch.Tensor]) -> None:
    """Marks `tensors` as modified for autograd, as every in-place function of torch does."""
    for tensor in tensors:
        if not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)


def _check(
    name: str, target: object, found: tuple[str, SafetensorMetadata], device: torch.device
) -> None:
    path, tensor = found
    try:
        _check_target(name, target, tensor, device)
    except RunaiStreamerInvalidInputException as error:
        raise of_file(error, path) from None


def _check_target(
    name: str, target: object, tensor: SafetensorMetadata, device: torch.device
) -> None:
    def fail(what: str) -> NoReturn:
        raise RunaiStreamerInvalidInputException(f"into: the destination of {name!r} {what}")

    if not isinstance(target, torch.Tensor):
        fail(f"is a {type(target).__name__}, not a tensor")
    if is_lazy(target):
        fail("is not initialised: run the module once, or use load_model()")
    if target.dtype != tensor.get_torch_dtype():
        fail(f"has dtype {target.dtype}, the file {tensor.get_torch_dtype()}")
    if tuple(target.shape) != tensor.get_torch_shape():
        fail(f"has shape {list(target.shape)}, the file {list(tensor.get_torch_shape())}")
    if not is_dtensor(target):
        _check_memory(name, target, tensor, device)


def _check_memory(
    name: str, target: torch.Tensor, tensor: SafetensorMetadata, device: torch.device
) -> None:
    def fail(what: str) -> NoReturn:
        raise RunaiStreamerInvalidInputException(f"into: the destination of {name!r} {what}")

    if tuple(target.shape) != tensor.get_torch_shape():
        fail(f"has shape {list(target.shape)}, the file {list(tensor.get_torch_shape())}")
    if not same_device(target.device, device):
        fail(f"is on {target.device}, the device of the stream is {device}")
    if target.layout != torch.strided or not target.is_contiguous():
        fail("is not contiguous")
    # Nothing on the device "meta" has memory.
    if device.type != "meta" and not has_plain_memory(target):
        fail(
            f"has no memory of its own, or another form of it ({type(target).__name__} on "
            f"{target.device}): take the tensor from get_tensors() and copy it"
        )


def _check_apart(targets: Mapping[str, torch.Tensor]) -> None:
    spans = sorted(
        (*span_of(target), name)
        for name, target in targets.items()
        if target.numel() and target.device.type != "meta"
    )
    for (_, end, name), (start, _, other) in itertools.pairwise(spans):
        if start < end:
            raise RunaiStreamerInvalidInputException(
                f"into: the destinations of {name!r} and {other!r} overlap"
            )

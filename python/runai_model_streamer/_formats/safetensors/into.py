"""Reading into memory that exists: the tensors of a mapping, or the parameters of a module."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch

from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata

Into = Mapping[str, torch.Tensor] | torch.nn.Module


def resolve(
    into: Into, files: Sequence[list[SafetensorMetadata]], device: torch.device
) -> dict[str, torch.Tensor]:
    """The checked destination of each tensor that has one.

    Of a mapping every name must stand in exactly one of `files`. Of a module every parameter must,
    or one that shares its memory; its buffers may.
    """
    found: dict[str, SafetensorMetadata] = {}
    for file in files:
        for tensor in file:
            if tensor.name in found:
                raise RunaiStreamerInvalidInputException(
                    f"into: {tensor.name!r} stands in more than one file (duplicate)"
                )
            found[tensor.name] = tensor
    if isinstance(into, torch.nn.Module):
        targets = _of_module(into, found)
    else:
        targets = dict(into)
        missing = [name for name in targets if name not in found]
        if missing:
            raise RunaiStreamerInvalidInputException(
                f"into: the files have no tensor {missing[0]!r}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            )
    for name, target in targets.items():
        _check(name, target, found[name], device)
    _check_apart(targets)
    return targets


def _of_module(
    module: torch.nn.Module, found: Mapping[str, SafetensorMetadata]
) -> dict[str, torch.Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    targets: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in found and isinstance(tensor, torch.Tensor) and place_of(tensor) not in taken:
            targets[name] = tensor
            if tensor.numel() > 0:
                taken.add(place_of(tensor))
    missing = [
        name
        for name, parameter in parameters.items()
        if name not in found and parameter.numel() > 0 and place_of(parameter) not in taken
    ]
    if missing:
        raise RunaiStreamerInvalidInputException(
            f"into: the files have no tensor for the parameter {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ". Give a mapping of names to tensors to fill a part of the module"
        )
    return targets


def place_of(tensor: torch.Tensor) -> int:
    """What tensors of the same memory have in common. Those of "meta" have none."""
    return id(tensor) if tensor.is_meta else tensor.data_ptr()


def _check(name: str, target: object, tensor: SafetensorMetadata, device: torch.device) -> None:
    def fail(what: str) -> NoReturn:
        raise RunaiStreamerInvalidInputException(f"into: the destination of {name!r} {what}")

    if not isinstance(target, torch.Tensor):
        fail(f"is a {type(target).__name__}, not a tensor")
    if target.dtype != tensor.get_torch_dtype():
        fail(f"has dtype {target.dtype}, the file {tensor.get_torch_dtype()}")
    if tuple(target.shape) != tensor.get_torch_shape():
        fail(f"has shape {list(target.shape)}, the file {list(tensor.get_torch_shape())}")
    if target.device.type != device.type or (
        device.index is not None and target.device.index not in (None, device.index)
    ):
        fail(f"is on {target.device}, the stream goes to {device}")
    if target.layout != torch.strided or not target.is_contiguous():
        fail("is not contiguous")


def _check_apart(targets: Mapping[str, torch.Tensor]) -> None:
    spans = sorted(
        (target.data_ptr(), target.data_ptr() + target.numel() * target.element_size(), name)
        for name, target in targets.items()
        if target.numel() > 0 and not target.is_meta
    )
    for (_, end, name), (start, _, other) in itertools.pairwise(spans):
        if start < end:
            raise RunaiStreamerInvalidInputException(
                f"into: the destinations of {name!r} and {other!r} overlap"
            )

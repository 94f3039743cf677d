"""One-line loading, in the style of safetensors.torch."""

from __future__ import annotations

import os

import torch

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._formats.safetensors.into import place_of
from runai_model_streamer._paths import Path, is_remote, to_text
from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._session import Ownership
from runai_model_streamer._storage.listing import list_safetensors


def load_file(
    filename: Path,
    device: str | torch.device | int = "cpu",
    s3_credentials: S3Credentials | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of the file or object `filename`, by name, in memory of their own."""
    target = f"cuda:{device}" if isinstance(device, int) else device
    with SafetensorsStreamer() as streamer:
        # Every tensor is kept: a view would be copied in the end, too, and later.
        streamer._stream([filename], s3_credentials, target, ownership=Ownership.COPIED)
        return dict(streamer.get_tensors())


def load_model(
    model: torch.nn.Module,
    path: Path,
    strict: bool = True,
    device: str | torch.device | int = "cpu",
    s3_credentials: S3Credentials | None = None,
) -> tuple[set[str], list[str]]:
    """Fills `model` from a file or from the safetensors files of a folder.

    `device` is that of the model's tensors. Tensors whose dtype fits are read straight into the
    model's memory; others are converted. Tensors that share memory need to be in the files once.

    Returns the names that are missing in the files and those that the model does not have.

    Raises:
        RuntimeError: a tensor has another shape than the model's, or, with `strict`, names are
            missing or unexpected. Nothing was read then. As Module.load_state_dict() does, this
            takes one of shape (1,) for one without dimensions.
    """
    target_device = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    paths = _files_of(to_text(path))
    state = {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if isinstance(tensor, torch.Tensor)
    }
    with SafetensorsStreamer() as streamer:
        streamer.open_files(paths, s3_credentials)
        found = {
            tensor.name: tensor
            for tensors in streamer.files_to_tensors_metadata.values()
            for tensor in tensors
        }
        filled = {place_of(state[name]) for name in found if name in state}
        missing = {
            name
            for name, tensor in state.items()
            if name not in found and (tensor.numel() == 0 or place_of(tensor) not in filled)
        }
        unexpected = sorted(name for name in found if name not in state)
        problems = [
            f"\n\tsize mismatch for {name}: copying a param with shape {torch.Size(shape)} from "
            f"checkpoint, the shape in current model is {tensor.shape}."
            for name, tensor in state.items()
            if name in found and not _fits(shape := found[name].get_torch_shape(), tensor)
        ]
        if strict and (missing or unexpected):
            problems.insert(0, f" missing: {sorted(missing)}, unexpected: {unexpected}")
        if problems:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(model).__name__}:" + "".join(problems)
            )
        wanted = [name for name in found if name in state]
        if not wanted:
            return missing, unexpected
        into: dict[str, torch.Tensor] = {}
        taken: set[int] = set()
        for name in wanted:
            tensor, described = state[name], found[name]
            if (
                tensor.dtype == described.get_torch_dtype()
                and tuple(tensor.shape) == described.get_torch_shape()
                and tensor.device == target_device
                and tensor.is_contiguous()
                and place_of(tensor) not in taken
            ):
                into[name] = tensor
                taken.add(place_of(tensor))
        streamer._stream(
            paths,
            s3_credentials,
            target_device,
            tensor_names=wanted,
            ownership=Ownership.COPIED,  # converted here: a truncation must be no signal
            into=into or None,
        )
        with torch.no_grad():
            for name, tensor in streamer.get_tensors():
                if name not in into:
                    state[name].copy_(tensor.view(state[name].shape))
    return missing, unexpected


def _fits(shape: tuple[int, ...], tensor: torch.Tensor) -> bool:
    """Whether `tensor` of a model takes one of `shape`: torch 0.3 had none without dimensions."""
    return shape == tuple(tensor.shape) or (shape == (1,) and tensor.dim() == 0)


def _files_of(path: str) -> list[str]:
    if path.endswith(".safetensors") or (not is_remote(path) and not os.path.isdir(path)):
        return [path]
    paths = list_safetensors(path)
    if not paths:
        raise RunaiStreamerInvalidInputException(
            f"{path}: no safetensors files in this folder", path=path
        )
    return paths

"""Checkpoints with other names and layouts than the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from runai_model_streamer import StreamerError, Target, load_model
from runai_model_streamer._session import Session

HEADS, KEYS, WIDTH = 6, 2, 8
TENSORS = {
    "model.attn.q.weight": torch.randn(HEADS, WIDTH),
    "model.attn.k.weight": torch.randn(KEYS, WIDTH),
    "model.attn.v.weight": torch.randn(KEYS, WIDTH),
    "model.up.weight": torch.randn(4, WIDTH),
    "model.gate.weight": torch.randn(4, WIDTH),
    **{f"model.experts.{e}.down.weight": torch.randn(WIDTH, 3) for e in range(4)},
    "model.norm.weight": torch.randn(WIDTH),
    "rotary.inv_freq": torch.randn(3),
}


class Fused(torch.nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        super().__init__()
        self.qkv = torch.nn.Parameter(
            torch.zeros(HEADS + 2 * KEYS, WIDTH, dtype=dtype, device=device)
        )
        # Column by column in memory: parts of rows are not contiguous.
        self.up_gate = torch.nn.Parameter(torch.zeros(WIDTH, 8, dtype=dtype, device=device).t())
        self.experts = torch.nn.Parameter(torch.zeros(4, WIDTH, 3, dtype=dtype, device=device))
        self.norm = torch.nn.Parameter(torch.zeros(WIDTH, dtype=dtype, device=device))


def key_map(name: str) -> str | Target | None:
    if ".attn." in name:
        start, rows = {"q": (0, HEADS), "k": (HEADS, KEYS), "v": (HEADS + KEYS, KEYS)}[name[11]]
        return Target("qkv", slice(start, start + rows))
    if ".up." in name:
        return Target("up_gate", slice(0, 4))
    if ".gate." in name:
        return Target("up_gate", slice(4, None))
    if ".experts." in name:
        return Target("experts", int(name.split(".")[2]))
    return "norm" if name.endswith("norm.weight") else None


def expected() -> dict[str, torch.Tensor]:
    return {
        "qkv": torch.cat([TENSORS[f"model.attn.{part}.weight"] for part in "qkv"]),
        "up_gate": torch.cat([TENSORS["model.up.weight"], TENSORS["model.gate.weight"]]),
        "experts": torch.stack([TENSORS[f"model.experts.{e}.down.weight"] for e in range(4)]),
        "norm": TENSORS["model.norm.weight"],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, target)
    return target


@pytest.mark.parametrize(
    ("dtype", "device", "assign"),
    [
        (torch.float32, "cpu", False),
        (torch.float64, "cpu", False),
        (torch.float32, "cpu", True),
        (torch.float32, "meta", True),
    ],
)
def test_parts_make_up_parameters(
    path: Path, dtype: torch.dtype, device: str, assign: bool
) -> None:
    model = Fused(dtype, device)
    assert load_model(model, path, key_map=key_map, assign=assign) == (set(), [])
    for name, tensor in expected().items():
        own = model.get_parameter(name)
        assert own.device.type == "cpu"
        assert torch.equal(own.detach().float(), tensor), name


def test_contiguous_parts_are_read_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []
    submit = Session.submit

    def watched(session: Session, requests: Any, *more: Any) -> None:
        for request in requests:
            places.extend(request.destinations or [])
        submit(session, requests, *more)

    monkeypatch.setattr(Session, "submit", watched)
    model = Fused()
    load_model(model, path, key_map=key_map)
    starts = {model.qkv.data_ptr() + rows * WIDTH * 4 for rows in (0, HEADS, HEADS + KEYS)}
    starts |= {part.data_ptr() for part in model.experts}
    assert starts | {model.norm.data_ptr()} == set(places) - {0}


def test_ranks_take_their_rows_of_each_part(path: Path) -> None:
    """As an engine does whose parameters are plain tensors."""

    def of_rank(name: str) -> str | Target | None:
        target = key_map(name)
        if not isinstance(target, Target) or target.name != "qkv":
            return None
        rows = TENSORS[name].shape[0] // 2
        start = {"q": 0, "k": HEADS, "v": HEADS + KEYS}[name[11]] // 2
        source = slice(rows * rank, rows * (rank + 1))
        return Target("weight", slice(start, start + rows), source)

    for rank in range(2):
        model = torch.nn.Linear(WIDTH, (HEADS + 2 * KEYS) // 2, bias=False)
        load_model(model, path, key_map=of_rank)
        parts = [TENSORS[f"model.attn.{part}.weight"].chunk(2)[rank] for part in "qkv"]
        assert torch.equal(model.weight, torch.cat(parts))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model.attn.q.weight": Target("qkv", slice(0, 5))}, "gives a part of shape [6, 8]"),
        ({"model.attn.k.weight": Target("qkv", slice(0, 2))}, "fill the same elements of 'qkv'"),
        ({"model.attn.k.weight": None}, "fill 64 of 80 elements of 'qkv'"),
        ({"model.attn.k.weight": "qkv"}, "fills all of 'qkv'"),
        ({"model.gate.weight": "norm"}, "are both mapped to 'norm'"),
        ({"model.experts.0.down.weight": Target("experts", 4)}, "index 4 is out of range"),
        ({"model.experts.0.down.weight": Target("experts", (0, 0, 0, 0))}, "has 4 dimensions"),
        ({"model.experts.0.down.weight": Target("experts", slice(0, 4, 2))}, "a step of 2"),
        ({"model.experts.0.down.weight": 5}, "is mapped to a int"),
    ],
)
def test_errors_come_before_anything_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], text: str
) -> None:
    monkeypatch.setattr(Session, "submit", lambda *_: pytest.fail("data was asked for"))
    model = Fused()
    with pytest.raises(StreamerError) as error:
        load_model(model, path, key_map=lambda name: change.get(name, key_map(name)))
    assert text in str(error.value)


def test_names_that_the_model_has_not_are_unexpected(path: Path) -> None:
    def elsewhere(name: str) -> str | Target | None:
        return Target("nowhere", slice(0, 8)) if name.startswith("rotary") else key_map(name)

    with pytest.raises(RuntimeError, match=r'Unexpected key.*"nowhere"'):
        load_model(Fused(), path, key_map=elsewhere)
    model = Fused()
    assert load_model(model, path, strict=False, key_map=elsewhere) == (set(), ["nowhere"])
    assert torch.equal(model.qkv, expected()["qkv"])

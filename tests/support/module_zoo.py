"""Modules of every kind, to load checkpoints into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]


def before_loading(module: nn.Module, hook: Callable[..., None]) -> None:
    """Registers a hook that load_state_dict() calls with `module`, its state and its prefix."""
    if hasattr(module, "register_load_state_dict_pre_hook"):
        module.register_load_state_dict_pre_hook(hook)
    else:  # before torch 2.5
        module._register_load_state_dict_pre_hook(hook, with_module=True)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("absent", None)
        self.gone: nn.Module | None
        self.register_module("gone", None)


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.embedding = nn.EmbeddingBag(3, 4)


class Renaming(nn.Module):
    """A pre-hook of a child reads another name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        before_loading(self.inner, self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: Tensors, prefix: str, *rest: Any) -> None:
        old = prefix + "gamma"
        if old in state:
            state[prefix + "weight"] = state.pop(old)


class Doubling(nn.Module):
    """A pre-hook of the root changes values of a grandchild."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3))
        before_loading(self, self._double)

    @staticmethod
    def _double(module: nn.Module, state: Tensors, prefix: str, *rest: Any) -> None:
        state["inner.0.weight"] = state["inner.0.weight"] * 2
        state.pop("inner.0.bias")


class Forgiving(nn.Module):
    """A post-hook takes names away."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_load_state_dict_post_hook(self._forgive)

    @staticmethod
    def _forgive(module: nn.Module, keys: Any) -> None:
        keys.missing_keys.clear()
        keys.unexpected_keys.clear()


class Quantised(nn.Module):
    """Stores another form of its weight than it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(4, 4, dtype=torch.int8), persistent=False)
        self.scale = nn.Parameter(torch.ones(1))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight.float()

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        self.weight.copy_(state.pop(prefix + "weight").round())
        super()._load_from_state_dict(state, prefix, *rest)


class WithQuantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(4, 4)
        self.packed = Quantised()


class Extra(nn.Module):
    """Has a tensor as its extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.extra = torch.zeros(2)

    def get_extra_state(self) -> torch.Tensor:
        return self.extra

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.extra = state.clone()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.again = self.head


class Overridden(nn.Module):
    """Has a load_state_dict() of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        state = {name.removeprefix("module."): tensor + 1 for name, tensor in state.items()}
        return super().load_state_dict(state, strict, assign)


class Patched(nn.Module):
    """Its method was replaced on the instance."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.inner._load_from_state_dict = lambda *rest: None  # type: ignore[method-assign]


class Wrapped(nn.Parameter):
    """A subclass that does something else when it is copied to."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.copy_:
            with torch._C.DisableTorchFunctionSubclass():
                args[0].fill_(7)
            return args[0]
        return super().__torch_function__(function, types, args, kwargs or {})


class OfSubclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = Wrapped(torch.zeros(3))


def odd_layouts() -> nn.Module:
    module = nn.Module()
    module.register_buffer("strided", torch.zeros(6, 4)[::2, ::2])
    module.register_buffer("turned", torch.zeros(3, 2).t())
    module.register_buffer(
        "channels", torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last)
    )
    module.register_buffer("scalar", torch.zeros(()))
    module.register_buffer("none", torch.zeros(0, 3))
    module.register_buffer("conjugate", torch.zeros(3, dtype=torch.complex64).conj())
    module.register_buffer("expanded", torch.zeros(1).expand(3))
    return module


def inference_tensors() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(3, 2)


def frozen() -> nn.Module:
    module = Plain()
    module.first.requires_grad_(False)
    return module


def parametrised() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.utils.parametrizations.weight_norm(module[0])
    nn.utils.parametrizations.orthogonal(module[1])
    return module


def views() -> nn.Module:
    flat = torch.zeros(12)
    module = nn.Module()
    module.a, module.b = nn.Parameter(flat[:4].view(2, 2)), nn.Parameter(flat[4:])
    return module


def overlapping() -> nn.Module:
    flat = torch.zeros(8)
    module = nn.Module()
    module.register_buffer("whole", flat)
    module.register_buffer("middle", flat[2:6])
    return module


ZOO: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "frozen": frozen,
    "half": lambda: Plain().half(),
    "double": lambda: Plain().double(),
    "norms": Norms,
    "renaming": Renaming,
    "doubling": Doubling,
    "forgiving": Forgiving,
    "quantised": WithQuantised,
    "extra": lambda: nn.Sequential(Extra(), nn.Linear(2, 2)),
    "tied": Tied,
    "overridden": Overridden,
    "patched": Patched,
    "subclass": OfSubclass,
    "layouts": odd_layouts,
    "inference": inference_tensors,
    "parametrised": parametrised,
    "lazy": lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)),
    "lazy norm": lambda: nn.Sequential(nn.LazyBatchNorm1d()),
    "recurrent": lambda: nn.LSTM(3, 4, 2),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "script": lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))),
    "list": lambda: nn.ModuleDict({"p": nn.ParameterList([torch.zeros(2), torch.zeros(3)])}),
    "meta": lambda: Plain().to("meta"),
    "meta norms": lambda: Norms().to("meta"),
    "dynamic": lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4))),
}

"""A module whose every name is a class that does nothing, for packages of compute kernels."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

# Kernels, image and audio decoding, grammars: nothing of it is on the way of a weight.
NAMES = frozenset(
    (
        *("torchvision", "sgl_kernel", "sglang_kernel", "flashinfer", "flash_attn", "tilelang"),
        *("xgrammar", "outlines", "outlines_core", "llguidance", "quack", "tvm_ffi"),
        *("decord", "decord2", "torch_memory_saver"),
    )
)


class _Nothing(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _make(name)

    def __or__(cls, _other: object) -> Any:
        return cls

    __ror__ = __or__


def _make(name: str) -> Any:
    def __init__(self: object, *_args: object, **_kwargs: object) -> None:
        pass

    def __new__(cls: type, *args: Any, **_kwargs: object) -> Any:
        # As a decorator it leaves what it decorates alone.
        if len(args) == 1 and callable(args[0]) and not isinstance(args[0], _Nothing):
            return args[0]
        return object.__new__(cls)

    def __call__(self: object, *args: Any, **_kwargs: object) -> Any:
        return args[0] if len(args) == 1 else None

    def schema(_source: object, _handler: object) -> Any:
        return {"type": "any"}

    body = {
        "__init__": __init__,
        "__new__": __new__,
        "__call__": __call__,
        "__get_pydantic_core_schema__": staticmethod(schema),
    }
    return _Nothing(name, (), body)


class _Module(types.ModuleType):
    __path__: Sequence[str] = []
    __version__ = "999.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _make(name)
        setattr(self, name, value)
        return value


def _asked_by_a_consumer() -> bool:
    # torch and transformers look for some of these names, too, and must not find them.
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("importlib") and module != "_frozen_importlib":
            return module.partition(".")[0] in ("modelexpress", "sglang", "vllm")
        frame = frame.f_back
    return False


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] not in NAMES or not _asked_by_a_consumer():
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    # Last: what is really installed wins.
    sys.meta_path.append(_Finder())

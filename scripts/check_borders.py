#!/usr/bin/env python3
"""Checks which part of the tree may use which, by the includes of C++ and the imports of Python.

    python3 -m scripts.check_borders [ROOT]

Prints one line for each arrow against the tables below, and fails if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "runai_model_streamer"

# C++: the rooms below cpp/, by path, and the rooms that each may include beside itself and the
# public headers. The longest path that matches decides. A registry makes objects of the rooms
# beside it, and is included by nothing but the rooms above.
ROOMS: dict[str, set[str]] = {
    "include": set(),
    "src/base": set(),
    "src/text": {"src/base"},
    "src/safetensors": {"src/base", "src/text"},
    "src/source": {"src/base", "src/text"},
    **{
        f"src/source/{registry}.cc": {
            "src/base",
            "src/text",
            "src/source",
            "src/source/file",
            "src/source/http",
        }
        for registry in ("source", "source_kind")
    },
    "src/source/file": {"src/base", "src/text", "src/source"},
    "src/source/http/client": {"src/base", "src/text", "src/source"},
    "src/source/http/auth": {"src/base", "src/text", "src/source", "src/source/http/client"},
    "src/source/http": {
        *("src/base", "src/text", "src/source"),
        *("src/source/http/client", "src/source/http/auth"),
    },
    **{
        f"src/source/http/{protocol}": {
            *("src/base", "src/text", "src/source"),
            *("src/source/http", "src/source/http/client", "src/source/http/auth"),
        }
        for protocol in ("azure", "gcs", "hub", "s3", "web")
    },
    "src/destination": {"src/base"},
    "src/destination/destination.cc": {"src/base", "src/destination", "src/destination/cuda"},
    "src/destination/cuda": {"src/base", "src/destination"},
    "src/engine": {"src/base", "src/source", "src/destination"},
    # These reach the engine by the public headers.
    "src/c_api": {"src/base"},
    "bindings": {"src/base"},
}

# Python: the modules and directories of the package from the lowest layer to the highest. A module
# may import those of lower layers, and of its own as long as the imports make no circle.
LAYERS: list[set[str]] = [
    {"_interpreter", "_installation", "_native", "_gc", "_torch"},
    {"_errors"},
    {"_native_api"},
    {"_settings", "_units"},
    {"_logging", "_options", "_paths", "_stats", "_credentials", "_spans", "_dtensor"},
    {"_requests", "_progress", "_telemetry"},
    {"_session"},
    {"_device", "_storage", "_load", "_prefixes"},
    {"_verify"},
    {"_reader"},
    {"_file_streamer"},
    {"_formats"},
    {"_distributed"},
    {"_tensor_load", "_tensor_requests"},
    {"_safetensors_streamer"},
    {"_module_plan", "_key_map"},
    {"_loading", "_safe_open", "_streamer_mock", "dcp"},
    {"_arrays"},
    {"numpy", "dlpack", "integrations"},
    {"__init__"},
    {"_tools"},
    {"_cli"},
    {"__main__"},
]

# The module paths of the original, which re-export; nothing inside imports them.
SHIMS = {"distributed_streamer", "file_streamer", "s3_utils", "safetensors_streamer"}

# Packages that need not be installed, and may be imported inside a function.
OPTIONAL = {
    *("azure", "boto3", "botocore", "certifi", "google", "matplotlib", "ml_dtypes"),
    *("opentelemetry", "torch", "tqdm"),
}

# Modules that import by name inside a function: the public names and torch when they are used
# first, and a module of Python whose name depends on the version.
BY_NAME = {"", "_torch", "_interpreter"}
BY_NAME_CALL = "importlib.import_module()"
BY_NAME_FUNCTIONS = ("import_module", "__import__")


@dataclass(frozen=True)
class Arrow:
    """An include or an import: `target` is a room or a module."""

    file: Path
    line: int
    target: str


def room_of(path: str) -> str | None:
    """The room of a path below cpp/: the longest entry of ROOMS that is it or holds it."""
    found = [room for room in ROOMS if path == room or path.startswith(room + "/")]
    return max(found, key=len, default=None)


INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)


def includes(cpp: Path, file: Path) -> Iterator[Arrow]:
    """The includes of files below cpp/; `target` is the file that is meant, "?" before a file with
    quotes that is not there."""
    text = file.read_text()
    for found in INCLUDE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        bases = [cpp / "include", cpp / "src", cpp]
        if found[1] == '"':
            bases.insert(0, file.parent)
        for base in bases:
            meant = (base / found[2]).resolve()
            if meant.is_file() and meant.is_relative_to(cpp):
                yield Arrow(file, line, str(meant.relative_to(cpp)))
                break
        else:
            if found[1] == '"':
                yield Arrow(file, line, f"?{found[2]}")


def check_cpp(root: Path) -> Iterator[str]:
    cpp = (root / "cpp").resolve()
    unused = {str(file.relative_to(cpp)) for file in (cpp / "src").rglob("*.h")}
    graph: dict[str, set[str]] = {}
    for file in sorted([*cpp.rglob("*.h"), *cpp.rglob("*.cc")]):
        here = str(file.relative_to(cpp))
        room = room_of(here)
        if room is None:
            yield f"cpp/{here}: is in no room of scripts/check_borders.py"
            continue
        for arrow in includes(cpp, file):
            if arrow.target.startswith("?"):
                yield f"cpp/{here}: includes {arrow.target[1:]}, which is not there"
                continue
            unused.discard(arrow.target)
            graph.setdefault(here, set()).add(arrow.target)
            target = room_of(arrow.target)
            if target not in ROOMS[room] | {room, "include"}:
                yield f"cpp/{here}: {room} may not include {arrow.target}"
    yield from (f"cpp/{header}: nothing includes it" for header in sorted(unused))
    for circle in circles(graph):
        yield f"cpp: these include each other: {', '.join(circle)}"


def circles(graph: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """The strongly connected components of more than one node, each sorted (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = []
            while True:
                component.append(stack.pop())
                if component[-1] == node:
                    break
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    yield from found


@dataclass(frozen=True)
class Import:
    name: str
    """The full name of a module, or of something in it."""
    line: int
    in_function: bool


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    """Every import of a module, also those in functions and for type checkers. A call of
    importlib.import_module() or __import__() is one of BY_NAME_CALL."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join(filter(None, [*parts, base]))
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, in_function)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(BY_NAME_FUNCTIONS):
            yield Import(BY_NAME_CALL, node.lineno, in_function)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(tree, False)


def only_re_exports(tree: ast.Module) -> bool:
    """Whether a module imports, lists `__all__`, or stands for another one, and nothing else."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            if not only_re_exports(ast.Module(node.body + node.orelse, [])):
                return False
            continue
        is_replacement = (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Name)
            and ast.unparse(node.targets[0]) == "sys.modules[__name__]"
        )
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        )
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if not (is_text or is_all or is_replacement or is_import):
            return False
    return True


def layer_of(module: str, layers: Sequence[set[str]]) -> int | None:
    """The layer of a module, whose name counts from the package."""
    top = module.split(".")[0] or "__init__"
    return next((number for number, names in enumerate(layers) if top in names), None)


def check_python(root: Path) -> Iterator[str]:
    package = root / "python" / PACKAGE
    trees: dict[str, ast.Module] = {}  # by the name below the package; "" is the package
    packages = {""}
    for file in sorted(package.rglob("*.py")):
        parts = list(file.relative_to(package).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
            packages.add(".".join(parts))
        trees[".".join(parts)] = ast.parse(file.read_text(), str(file))

    def module_meant(name: str) -> str | None:
        """The module of this package that an imported name is, or is in; None: elsewhere."""
        if name != PACKAGE and not name.startswith(PACKAGE + "."):
            return None
        inner = name.removeprefix(PACKAGE).removeprefix(".")
        while inner and inner not in trees and inner not in ("_native",):
            inner = inner.rpartition(".")[0]
        return inner

    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        shown = f"python/{PACKAGE}/{name.replace('.', '/') or '__init__'}"
        shim = name.split(".")[0] in SHIMS
        if not shim and layer_of(name, LAYERS) is None:
            yield f"{shown}: is in no layer of scripts/check_borders.py"
        if shim and not only_re_exports(tree):
            yield f"{shown}: does more than to re-export"
        full = ".".join(filter(None, [PACKAGE, name]))
        for found in imports(tree, full, name in packages):
            if found.name == BY_NAME_CALL:
                if name not in BY_NAME:
                    yield f"{shown}: imports by name: {BY_NAME_CALL}"
                continue
            target = module_meant(found.name)
            if target is None:
                if found.in_function and found.name.split(".")[0] not in OPTIONAL:
                    yield f"{shown}: imports {found.name} inside a function"
                continue
            if found.in_function:
                yield f"{shown}: imports {PACKAGE}.{target} inside a function"
            if target != name:
                graph[name].add(target)
            if target.split(".")[0] in SHIMS:
                if not shim:
                    yield f"{shown}: imports the shim {target}"
                continue
            mine, theirs = layer_of(name, LAYERS), layer_of(target, LAYERS)
            if not shim and None not in (mine, theirs) and theirs > mine:  # type: ignore[operator]
                yield f"{shown}: imports {target or 'the package'}, which is in a higher layer"
    for circle in circles(graph):
        names = ", ".join(name or "__init__" for name in circle)
        yield f"python/{PACKAGE}: these import each other: {names}"


def check_tables() -> Iterator[str]:
    for room, allowed in ROOMS.items():
        for unknown in allowed - ROOMS.keys():
            yield f"scripts/check_borders.py: {room} may include {unknown}, which is no room"
    for circle in circles(ROOMS):
        yield f"scripts/check_borders.py: ROOMS has a circle: {', '.join(circle)}"


def check(root: Path) -> list[str]:
    """All that is against the tables."""
    return list(dict.fromkeys([*check_tables(), *check_cpp(root), *check_python(root)]))


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    found = check(root)
    for text in found:
        print(text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

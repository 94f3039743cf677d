"""Finds files of another implementation among those of this package.

Imports the native module. If such files prevent that, the error names them.

The original has the same distribution, the same import name and the same directory. Its plugins put
libraries into that directory, which stay when only the main package is replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from runai_model_streamer import _interpreter  # noqa: F401 - first: it may refuse

_PACKAGE = Path(__file__).parent
# NAME-VERSION.dist-info, of the package and of its siblings.
_METADATA = re.compile(r"(runai_model_streamer(?:_s3|_gcs|_azure)?)-([^-]+)\.dist-info")
_PUBLIC = re.compile(r"runai_model_streamer/(?:__init__|(?!_).+)\.py")
_FOREIGN = [f"libstreamer/lib/libstreamer{kind}.so" for kind in ("s3", "gcs", "azure")]
_SHOWN = 3

CURE = (
    "Uninstall runai-model-streamer, runai-model-streamer-s3, runai-model-streamer-gcs and "
    "runai-model-streamer-azure, then install the one that you want"
)


def problems(package: Path = _PACKAGE, path: Iterable[str] | None = None) -> list[str]:
    """Signs of a mixed installation, each in a few words; none in a proper one.

    `path` are the directories that modules are imported from, sys.path by default. Never raises:
    directories that cannot be read are passed over.
    """
    found: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        for problem in _problems(package, sys.path if path is None else path):
            found.append(problem)  # noqa: PERF402 - problems before an exception count
    return found


def _problems(package: Path, path: Iterable[str]) -> Iterator[str]:
    for name in _FOREIGN:
        if (package / name).exists():
            yield f"{package / name} is a library of the original"
    # Other directories, such as that of a script, may have very many entries.
    sites = [
        entry for entry in path if entry.rstrip("/").endswith(("site-packages", "dist-packages"))
    ]
    here, *others = dict.fromkeys(
        os.path.realpath(entry) for entry in (str(package.parent), *sites)
    )
    installed = list(_distributions(here))
    own = [one for one in installed if one[0] == "runai_model_streamer"]
    siblings = [one for one in installed if one[0] != "runai_model_streamer"]
    if len(own) > 1:
        versions = " and ".join(version for _, version in own)
        yield f"runai-model-streamer is installed as {versions} in {here}"
    for other in others:
        for name, version in _distributions(other):
            if name == "runai_model_streamer":
                yield f"runai-model-streamer {version} is installed in {other}, too"
            else:
                siblings.append((name, version))
    if len(own) != 1:
        return
    for name, version in siblings:
        if version != own[0][1]:
            title = name.replace("_", "-")
            yield f"{title} {version} does not go with runai-model-streamer {own[0][1]}"
    changed = list(_changed(Path(here), own[0][1]))
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        yield f"these files are not those that were installed: {', '.join(changed[:_SHOWN])}{more}"


def _distributions(directory: str) -> Iterator[tuple[str, str]]:
    """Name and version of the package and of its siblings in the directory."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(directory)):
            if found := _METADATA.fullmatch(name):
                yield found[1], found[2]


def _changed(directory: Path, version: str) -> Iterator[str]:
    """Python files of the package whose size is not that of the list of installed files.

    Only those whose name another implementation may have, too: every process makes this check, and
    a file system may be far.
    """
    record = directory / f"runai_model_streamer-{version}.dist-info" / "RECORD"
    for line in record.read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(",")
        if not _PUBLIC.fullmatch(name):
            continue
        size = rest.rpartition(",")[2]
        try:
            found = os.stat(directory / name).st_size
        except OSError:
            yield f"{name} (missing)"
            continue
        if size.isdecimal() and int(size) != found:
            yield name


try:
    import runai_model_streamer._native  # noqa: F401
except ImportError as _error:
    _found = problems()
    if not _found:
        raise
    raise ImportError(
        "files of two implementations of runai_model_streamer are installed: "
        f"{'; '.join(_found)}. {CURE} ({_error})"
    ) from _error

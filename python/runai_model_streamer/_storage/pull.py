"""Listing objects, and copying them to files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import urllib.parse
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials import certificates as certificates
from runai_model_streamer._credentials import make_provider
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerError,
    from_native,
    shown_path,
)
from runai_model_streamer._paths import Path, is_remote, to_text
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session

_FILES_AT_ONCE = 64
_PART_BYTES = 8 << 20
Patterns = Sequence[str] | None


def list_objects(
    folder: str, is_recursive: bool = True, credentials: Any = None
) -> list[tuple[str, int]]:
    """(path, size) of the objects below `folder`, sorted by path."""
    provider = make_provider(credentials)
    return native.list_objects(folder, is_recursive, provider, certificates.fallback())


def list_safetensors_objects(folder: str, credentials: Any = None) -> list[str]:
    """The safetensors objects directly in `folder`, sorted."""
    found = list_objects(folder, False, credentials)
    return [path for path, _ in found if object_key(path).endswith(".safetensors")]


def pull_objects(
    source: str,
    destination: str,
    allow: Patterns = None,
    ignore: Patterns = None,
    credentials: Any = None,
    leave_out: str = "",
) -> None:
    """Copies the wanted objects below the folder `source` into the folder `destination`, but for
    the file `leave_out`."""
    from runai_model_streamer._storage.listing import matches

    base = _base(source)
    wanted: list[tuple[str, str, int]] = []
    for path, size in list_objects(source, True, credentials):
        if not matches(object_key(path), allow, ignore):
            continue
        relative = _decoded(path, path[len(base) :])
        if relative == leave_out:
            continue
        wanted.append((path, _target(destination, relative, path), size))
    _check_targets(wanted)
    for start in range(0, len(wanted), _FILES_AT_ONCE):
        _copy(wanted[start : start + _FILES_AT_ONCE], credentials)


def object_key(path: str) -> str:
    """The key of an object: its path without scheme and bucket, host or repository."""
    scheme, _, rest = path.partition("://")
    key = rest.partition("/")[2]
    if scheme.lower() == "hf":
        key = key.partition("/")[2]
    return _decoded(path, key)


def _base(source: str) -> str:
    """What the paths of objects below `source` begin with. An https:// address may be that of a
    file, or of a checkpoint's index, which lists what lies beside it."""
    if _is_address(source):
        source = source.partition("?")[0]
        if source.endswith((".json", ".safetensors")):
            source = source.rpartition("/")[0]
    return source.rstrip("/") + "/"


def _is_address(path: str) -> bool:
    return path[:8].lower().startswith(("http://", "https://"))


def _decoded(path: str, name: str) -> str:
    """A name out of `path`: addresses hold them percent-encoded."""
    return urllib.parse.unquote(name.partition("?")[0]) if _is_address(path) else name


def _target(destination: str, relative: str, path: str) -> str:
    """The file for an object; RunaiStreamerInvalidInputException where it would lie elsewhere."""
    if ".." in relative.split("/") or "\0" in relative:
        raise RunaiStreamerInvalidInputException(
            f"{path}: its name would place the file outside of the folder {destination!r}",
            path=path,
        )
    # Not join(): the rest of "a//b" below "a" begins with a slash.
    target = os.path.normpath(destination + "/" + relative)
    # A link inside the folder must not lead out of it, either.
    root = os.path.realpath(destination)
    real = os.path.realpath(os.path.dirname(target))
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise RunaiStreamerInvalidInputException(
            f"{path}: a link in {destination!r} leads out of that folder", path=path
        )
    return target


def _check_targets(wanted: Sequence[tuple[str, str, int]]) -> None:
    seen: dict[str, str] = {}
    for path, target, _ in wanted:
        if target in seen:
            raise RunaiStreamerInvalidInputException(
                f"{path} and {shown_path(seen[target])} would be the same file {target!r}",
                path=path,
            )
        seen[target] = path
    folders: set[str] = set()
    for path, target, _ in wanted:
        folder = os.path.dirname(target)
        while folder and folder not in folders:
            if folder in seen:
                raise RunaiStreamerInvalidInputException(
                    f"{path} and {shown_path(seen[folder])}: "
                    f"{folder!r} can't be a folder and a file",
                    path=path,
                )
            folders.add(folder)
            folder = os.path.dirname(folder)


@contextlib.contextmanager
def _writing(path: str, target: str) -> Iterator[None]:
    """Makes what the system says an error of the object at `path`."""
    try:
        yield
    except StreamerError:
        raise
    except OSError as error:
        raise from_native(
            "permission" if isinstance(error, PermissionError) else "io",
            f"{path}: can't be written to {target!r}: {error.strerror}",
            {"path": path, "errno": error.errno},
        ) from error


class _Part:
    """A file that is being written under another name."""

    def __init__(self, target: str, size: int) -> None:
        self.target, self.missing = target, size
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        self.name = os.path.join(folder, f".streamer-{secrets.token_hex(8)}.part")
        self.fd = os.open(self.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: memoryview, offset: int) -> None:
        self.missing -= len(data)
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written

    def finish(self) -> None:
        """Gives the complete file its name."""
        os.replace(self.name, self.target)
        self.name = ""
        self.discard()

    def discard(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
            if self.name:
                with contextlib.suppress(OSError):
                    os.unlink(self.name)


def _copy(wanted: Sequence[tuple[str, str, int]], credentials: Any) -> None:
    """Copies objects to files, all at once; each file is complete or absent."""
    if not wanted:
        return
    paths = [path for path, _, _ in wanted]
    session = Session(paths, credentials=credentials)
    parts: dict[int, _Part] = {}
    try:
        session.open(paths)
        requests = []
        for index, (path, target, _) in enumerate(wanted):
            size = session.sizes[path]  # of the version that is read, not of the list
            with _writing(path, target):
                parts[index] = _Part(target, size)
            sizes = [min(_PART_BYTES, size - at) for at in range(0, size, _PART_BYTES)] or [0]
            requests.append(FileChunks(index, path, 0, sizes))
        session.submit(requests)
        for run in session.runs():
            request = requests[run.request_id]
            part = parts[run.request_id]
            with _writing(request.path, part.target):
                if run.data is not None:
                    data = memoryview(run.data)
                    for index, position in enumerate(run.positions, start=run.first):
                        size = request.sizes[index]
                        part.write(data[position : position + size], request.offsets[index])
                    data.release()
                if part.missing == 0 and run.first + run.count == len(request.sizes):
                    part.finish()
    finally:
        for part in parts.values():
            part.discard()
        session.close()


class ObjectStorageModel:
    """A folder with the files of one model, filled once and shared by processes.

    Making one waits until no other process works on `dst`, which needs a lock beside it
    (``dst + ".lock"``) until close. A folder whose filling was never finished is emptied first.
    pull_files() copies; leaving without an error marks the folder as complete, and from then on
    every ObjectStorageModel of it copies nothing. Errors: ValueError for a path that is no URI, and
    RuntimeError on leaving when no file was found.
    """

    SENTINEL_NAME = ".runai_complete"

    def __init__(self, model_path: Path, dst: Path, s3_credentials: Any = None) -> None:
        self._lock_fd = -1
        self._model_path = to_text(model_path)
        if not is_remote(self._model_path):
            raise RunaiStreamerInvalidInputException(
                f"{self._model_path!r} is a local path; ObjectStorageModel copies objects"
            )
        self.dir = to_text(dst).rstrip("/") or "/"
        self._credentials = s3_credentials
        self._lock_path = self.dir + ".lock"
        os.makedirs(os.path.dirname(os.path.abspath(self._lock_path)), exist_ok=True)
        self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            self._skip = os.path.exists(self._sentinel)
            if not self._skip:
                shutil.rmtree(self.dir, ignore_errors=True)
                os.makedirs(self.dir, exist_ok=True)
        except BaseException:
            self._unlock()
            raise

    @property
    def _sentinel(self) -> str:
        return os.path.join(self.dir, self.SENTINEL_NAME)

    def pull_files(self, allow_pattern: Patterns = None, ignore_pattern: Patterns = None) -> None:
        """As runai_model_streamer.pull_files(); nothing where the folder is complete."""
        if not self._skip:
            pull_objects(
                self._model_path,
                self.dir,
                allow_pattern,
                ignore_pattern,
                self._credentials,
                self.SENTINEL_NAME,
            )

    def __enter__(self) -> ObjectStorageModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock_fd < 0:
            return
        try:
            if kind is None and not self._skip:
                if not any(_files_below(self.dir)):
                    raise RuntimeError(f"no files were found below {shown_path(self._model_path)}")
                with open(self._sentinel, "w"):
                    pass
        finally:
            self._unlock()

    def __del__(self) -> None:
        self._unlock()

    def _unlock(self) -> None:
        # Closing releases the lock. The file stays: another process may be waiting for it.
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)


def _files_below(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(root, name)

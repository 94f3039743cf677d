"""Listing objects, and copying them to files."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import urllib.parse
from collections.abc import Callable, Collection, Sequence

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials import certificates as certificates
from runai_model_streamer._credentials import make_provider
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    from_native,
    shown_path,
)
from runai_model_streamer._logging import configure, logger, retried
from runai_model_streamer._paths import is_url, to_native
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session
from runai_model_streamer._storage.journal import JOURNAL, Copy, Journal
from runai_model_streamer._storage.local import is_weights
from runai_model_streamer._storage.model_directory import (
    MARKS,
    Choice,
    Patterns,
    system_errors,
)
from runai_model_streamer._storage.patterns import matches

_FILES_AT_ONCE = 64
_PART_BYTES = 8 << 20
_SMALL_BYTES = 256 << 10  # an object up to this size comes with the response that opens it


def list_objects(
    directory: str, is_recursive: bool = True, credentials: S3Credentials | None = None
) -> list[tuple[str, int, str]]:
    """(path, size, version) of the objects below `directory`, sorted by path. An empty version: it
    is not in the list."""
    configure()
    provider = make_provider(credentials)
    return native.list_objects(directory, is_recursive, provider, certificates.fallback(), retried)


def list_safetensors_objects(directory: str, credentials: S3Credentials | None = None) -> list[str]:
    """The safetensors objects directly in `directory`, sorted."""
    found = list_objects(directory, False, credentials)
    if not found:  # an empty directory looks like a typo to a store
        logger.warning("%s: there are no objects. Check the path", shown_path(directory))
    return [path for path, _, _ in found if is_weights(name_of(path))]


def name_of(path: str) -> str:
    """The last part of the key of an object."""
    return native.object_key(path).rpartition("/")[2]


def pull_objects(
    source: str,
    destination: str,
    allow: Patterns = None,
    ignore: Patterns = None,
    credentials: S3Credentials | None = None,
    leave_out: Collection[str] = (),
    also: Sequence[Choice] = (),
    adopted: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, str]:
    """Copies the objects below `source` whose keys the patterns select, or those of one of `also`,
    into the directory `destination`, except files named in `leave_out`.

    All of them have the versions of the list: one that was replaced since is an error.
    A pull that was killed is continued. If the directory is `adopted` from one, files that are not
    wanted are removed.

    `progress` is called with (bytes so far, bytes in all), including earlier bytes.

    Returns how many they are, and `source` at the snapshot that was read."""
    wanted: list[_Wanted] = []
    snapshot = source
    for path, size, version in list_objects(source, True, credentials):
        snapshot = native.at_version(to_native(source), version)
        key = native.object_key(path)
        if not any(matches(key, *choice) for choice in ((allow, ignore), *also)):
            continue
        relative = _relative(source, path)
        if relative in leave_out:
            continue
        if relative == JOURNAL:
            raise RunaiStreamerInvalidInputException(
                f"{path}: a pull uses this name itself; ignore_pattern can leave it out", path=path
            )
        wanted.append(_Wanted(path, _target(destination, relative, path), size, version))
    _check_targets(wanted)
    if adopted:
        _remove_others(destination, {one.target for one in wanted})
    _copy_all(destination, wanted, credentials, _Counter(wanted, progress))
    return len(wanted), snapshot


def weights_below(
    source: str, destination: str, credentials: S3Credentials | None = None
) -> dict[str, str]:
    """The paths of the safetensors files below `source`, by the files that pull_objects() would
    make of them. Raises if they would lie outside of `destination`, or be the same."""
    wanted = [
        _Wanted(path, _target(destination, _relative(source, path), path), size, version)
        for path, size, version in list_objects(source, True, credentials)
        if is_weights(name_of(path))
    ]
    _check_targets(wanted)
    return {one.target: one.path for one in wanted}


def _relative(source: str, path: str) -> str:
    """The name that the object at `path` of the list of `source` has below it."""
    return _decoded(path, path[len(_base(source)) :])


def _remove_others(destination: str, targets: set[str]) -> None:
    """Removes files of a pull that was killed that are no longer wanted."""
    for root, _, names in os.walk(destination):
        for name in names:
            path = os.path.join(root, name)
            ours = root == destination and name in {*MARKS, JOURNAL}
            if path not in targets and not ours and not name.endswith(".part"):
                os.unlink(path)


def _base(source: str) -> str:
    """The prefix of the paths of objects below `source`. A URL may be that of a
    file, or of a checkpoint's index, which lists what lies beside it."""
    if is_url(source):
        source = source.partition("?")[0]
        if source.endswith((".json", ".safetensors")):
            source = source.rpartition("/")[0]
    return source.rstrip("/") + "/"


def _decoded(path: str, name: str) -> str:
    """A name out of `path`: URLs hold them percent-encoded."""
    if is_url(path):
        return urllib.parse.unquote(name.partition("?")[0])
    return name


def _target(destination: str, relative: str, path: str) -> str:
    """The file for an object; RunaiStreamerInvalidInputException if it would lie elsewhere."""
    if ".." in relative.split("/") or "\0" in relative:
        raise RunaiStreamerInvalidInputException(
            f"{path}: its name would place the file outside of the directory {destination!r}",
            path=path,
        )
    # Not join(): the rest of "a//b" below "a" begins with a slash.
    target = os.path.normpath(destination + "/" + relative)
    # A link inside the directory must not lead out of it, either.
    root = os.path.realpath(destination)
    real = os.path.realpath(os.path.dirname(target))
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise RunaiStreamerInvalidInputException(
            f"{path}: a link in {destination!r} leads out of that directory", path=path
        )
    return target


def _check_targets(wanted: Sequence[_Wanted]) -> None:
    seen: dict[str, str] = {}
    for path, target in ((one.path, one.target) for one in wanted):
        try:
            target.encode()
        except UnicodeEncodeError:
            raise RunaiStreamerInvalidInputException(
                f"{path}: its name is not UTF-8; ignore_pattern can leave it out", path=path
            ) from None
        if target in seen:
            raise RunaiStreamerInvalidInputException(
                f"{path} and {shown_path(seen[target])} would be the same file {target!r}",
                path=path,
            )
        seen[target] = path
    directories: set[str] = set()
    for path, target in ((one.path, one.target) for one in wanted):
        directory = os.path.dirname(target)
        while directory and directory not in directories:
            if directory in seen:
                raise RunaiStreamerInvalidInputException(
                    f"{path} and {shown_path(seen[directory])}: "
                    f"{directory!r} can't be a directory and a file",
                    path=path,
                )
            directories.add(directory)
            directory = os.path.dirname(directory)


def _check_space(destination: str, files: Sequence[tuple[str, int]], held: int) -> None:
    """OSError if the file system of `destination` can't hold files of these names and sizes, of
    which it has `held` bytes."""
    needed = -held
    for target, size in files:
        with contextlib.suppress(OSError):
            size -= os.stat(target).st_size  # is replaced
        needed += max(size, 0)
    existing = os.path.abspath(destination)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    state = os.statvfs(existing)
    blocks = state.f_bfree if os.geteuid() == 0 else state.f_bavail
    free = blocks * state.f_frsize
    # Some file systems do not report it.
    if state.f_blocks > 0 and needed > free:
        raise OSError(
            errno.ENOSPC, f"the objects have {needed} bytes, the file system has {free} bytes free"
        )


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """An object to copy."""

    path: str
    target: str
    size: int
    """As listed."""
    version: str


class _Counter:
    """The bytes that a pull has copied."""

    def __init__(
        self, wanted: Sequence[_Wanted], progress: Callable[[int, int], None] | None
    ) -> None:
        self._total = sum(one.size for one in wanted)
        self._done = 0
        self._progress = progress

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None and size:
            # Lists of web servers round sizes.
            self._progress(self._done, max(self._total, self._done))


class _Part:
    """A file that is being written under another name, from its front."""

    def __init__(self, directory: str, journal: Journal, copy: Copy) -> None:
        self._journal, self._copy = journal, copy
        self.target = os.path.join(directory, copy.name)
        os.makedirs(os.path.dirname(self.target) or ".", exist_ok=True)
        self.name = os.path.join(directory, journal.part_of(copy))
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(self.name, flags, 0o666)
        # Whole parts only: the last one may be cut.
        self.begin = min(os.fstat(self.fd).st_size, copy.size) // _PART_BYTES * _PART_BYTES
        os.ftruncate(self.fd, self.begin)
        self.missing = copy.size - self.begin

    def write(self, data: memoryview, offset: int) -> None:
        self.missing -= len(data)
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written

    def finish(self) -> None:
        """Gives the complete file its name."""
        os.replace(self.name, self.target)
        self.name = ""
        self._journal.finished(self._copy)
        self.discard()

    def discard(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
            if self.name:
                with contextlib.suppress(OSError):
                    os.unlink(self.name)
                self._journal.discarded(self._copy)


def _copy(
    session: Session,
    journal: Journal,
    destination: str,
    wanted: Sequence[_Wanted],
    counter: _Counter,
) -> None:
    """Copies objects to files, all at once; each file is complete or absent."""
    parts: dict[int, _Part] = {}
    try:
        firsts = session.open(
            [one.path for one in wanted], _SMALL_BYTES, [one.version for one in wanted]
        )
        requests: dict[int, FileChunks] = {}
        for one in wanted:
            size = session.sizes[one.path]
            # Web servers list rounded sizes, or none.
            if one.size not in (0, size) and not is_url(one.path):
                raise from_native(
                    "changed",
                    f"{one.path}: the object has {size} bytes, the list says {one.size}",
                    {"path": one.path},
                )
        with system_errors(wanted[0].path, wanted[0].target):
            files = [(one.target, session.sizes[one.path]) for one in wanted]
            _check_space(destination, files, journal.bytes_of_parts())
        for index, (one, first) in enumerate(zip(wanted, firsts, strict=True)):
            path, size = one.path, session.sizes[one.path]
            name = os.path.relpath(one.target, destination)
            copy = Copy(name, path, session.versions[path], size)
            with system_errors(path, one.target):
                if journal.is_complete(copy):
                    counter.add(size)
                    continue
                part = parts[index] = _Part(destination, journal, copy)
                if size <= len(first):
                    os.ftruncate(part.fd, 0)
                    part.write(memoryview(first), 0)
                if size <= len(first) or part.missing == 0:
                    part.finish()
                    counter.add(size)
                    continue
                counter.add(part.begin)
            sizes = [min(_PART_BYTES, size - at) for at in range(part.begin, size, _PART_BYTES)]
            requests[index] = FileChunks(index, path, part.begin, sizes)
        if not requests:
            return
        session.submit(list(requests.values()))
        for run in session.runs():
            request, part = requests[run.request_id], parts[run.request_id]
            with system_errors(request.path, part.target):
                if run.data is not None:
                    assert not isinstance(run.data, list)  # it is memory of the host
                    data = memoryview(run.data)
                    for index, position in enumerate(run.positions, start=run.first):
                        size = request.sizes[index]
                        part.write(data[position : position + size], request.offsets[index])
                        counter.add(size)
                    data.release()
                if part.missing == 0:
                    part.finish()
    finally:
        for part in parts.values():
            part.discard()


def _copy_all(
    destination: str,
    wanted: Sequence[_Wanted],
    credentials: S3Credentials | None,
    counter: _Counter,
) -> None:
    """Copies objects in batches over the same connections."""
    if not wanted:
        return
    with system_errors(wanted[0].path, destination):
        os.makedirs(destination, exist_ok=True)
        journal = Journal(destination)
    try:
        with system_errors(wanted[0].path, destination):
            sizes = [(one.target, one.size) for one in wanted]
            _check_space(destination, sizes, journal.bytes_of_parts())
        session = Session([one.path for one in wanted], credentials=credentials)
        try:
            for start in range(0, len(wanted), _FILES_AT_ONCE):
                batch = wanted[start : start + _FILES_AT_ONCE]
                _copy(session, journal, destination, batch, counter)
        finally:
            session.close()
    finally:
        journal.end()

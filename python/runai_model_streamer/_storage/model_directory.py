"""The directory of an ObjectStorageModel: the marks in it, and how it is replaced.

A directory is replaced or emptied only if it is empty or has one of the marks.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import pwd
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerError,
    from_native,
)
from runai_model_streamer._logging import logger
from runai_model_streamer._paths import is_url

COMPLETE = ".runai_complete"
PARTIAL = ".runai_partial"
MARKS = frozenset({COMPLETE, PARTIAL})

Patterns = Sequence[str] | None
Choice = tuple[Patterns, Patterns]
"""The allow and ignore patterns of one pull_files()."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def system_errors(path: str, target: str) -> Iterator[None]:
    """Turns an OSError into the StreamerError of the object at `path` and the file `target`."""
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


@dataclasses.dataclass(frozen=True)
class Mark:
    """The content of a complete directory."""

    source: str | None = None
    """The URI; None in marks of other versions, which do not name it."""
    choices: tuple[Choice, ...] = ()

    def is_of(self, uri: str) -> bool:
        return self.source is None or self.source == source_of(uri)

    def has(self, choice: Choice) -> bool:
        return self.source is None or _plain(choice) in self.choices

    def text(self) -> str:
        return json.dumps({"source": self.source, "patterns": self.choices}, indent=1) + "\n"


def source_of(uri: str) -> str:
    """`uri` as marks name it: without a query, which may grant access."""
    if is_url(uri):
        uri = uri.partition("?")[0]
    return uri.rstrip("/")


def mark_of(uri: str, choices: Sequence[Choice]) -> Mark:
    return Mark(source_of(uri), tuple(dict.fromkeys(map(_plain, choices))))


def _plain(choice: Choice) -> Choice:
    allow, ignore = (None if part is None else tuple(sorted(set(part))) for part in choice)
    return allow, ignore


def read_mark(directory: str) -> Mark | None:
    """The mark of a complete directory; None if it is not complete."""
    return _mark_in(directory, COMPLETE)


def _mark_in(directory: str, name: str) -> Mark | None:
    try:
        with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = json.loads(text)
        source, choices = found["source"], found["patterns"]
        if not isinstance(source, str):
            return Mark()
        return Mark(source, tuple(_plain((allow, ignore)) for allow, ignore in choices))
    except (ValueError, TypeError, KeyError):
        return Mark()


def write_mark(directory: str, mark: Mark) -> None:
    """Makes the content of the directory durable, then marks it as complete."""
    for root, _, names in os.walk(directory):
        for name in (*names, ""):
            _sync(os.path.join(root, name))
    partial = os.path.join(directory, PARTIAL)
    with open(partial, "w", encoding="utf-8") as file:
        file.write(mark.text())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, os.path.join(directory, COMPLETE))
    _sync(directory)


def _sync(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # a link, or a file that was taken away
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(fd)


def check_destination(given: str, directory: str) -> None:
    """RunaiStreamerInvalidInputException if `directory`, which is `given` without links, is not one
    to fill."""
    homes = {os.path.expanduser("~")}
    with contextlib.suppress(KeyError):
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    homes.discard("/")
    working = ""
    with contextlib.suppress(OSError):  # it was removed
        working = os.path.realpath(os.getcwd())
    why = ""
    if not given.strip():
        why = "it is empty (an unset variable?)"
    elif directory == "/" or os.path.ismount(directory):
        why = "it is a mount point"
    elif any(_is_above(directory, os.path.realpath(home)) for home in homes):
        why = "it holds the home directory"
    elif _is_above(directory, working):
        why = "it holds the working directory"
    elif os.path.exists(directory) and not os.path.isdir(directory):
        why = "it is not a directory"
    if why:
        raise RunaiStreamerInvalidInputException(
            f"the destination {given!r} can't be used: {why}. Name a directory of its own, which "
            "does not exist or is empty"
        )


def _is_above(directory: str, other: str) -> bool:
    return other == directory or other.startswith(directory.rstrip("/") + "/")


def check_ours(given: str, directory: str) -> None:
    """RunaiStreamerInvalidInputException if the directory holds files of others."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    if names and not MARKS.intersection(names):
        shown = ", ".join(repr(name) for name in names[:5])
        if len(names) > 5:
            shown += f" and {len(names) - 5} more"
        raise RunaiStreamerInvalidInputException(
            f"the destination {given!r} holds files that ObjectStorageModel did not put there: "
            f"{shown}. Name a directory that does not exist or is empty, or remove them"
        )


def lock(path: str) -> tuple[int, bool]:
    """Waits for the lock at `path`: its descriptor, and whether the file system has locks."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        if not os.path.exists(path):
            raise
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # that of another user
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd, True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(fd)
            raise
        logger.warning(
            "%s: the file system has no locks (%s); processes that start together may each copy "
            "the model",
            path,
            error.strerror,
        )
        return fd, False
    except BaseException:
        os.close(fd)
        raise


def identity(directory: str) -> tuple[int, int]:
    """The identity of a directory, which another one in its place does not have."""
    found = os.stat(directory)
    return found.st_dev, found.st_ino


def make_stage(directory: str, uri: str) -> str:
    """A new directory beside `directory`, marked as unfinished and of `uri`."""
    stage = f"{directory}.partial-{secrets.token_hex(8)}"
    os.mkdir(stage)
    with open(os.path.join(stage, PARTIAL), "x", encoding="utf-8") as file:
        file.write(mark_of(uri, ()).text())
    with contextlib.suppress(OSError):
        shutil.copymode(directory, stage)
    return stage


def adopt_stage(directory: str, uri: str) -> str:
    """A stage of the same source that a process that was killed has left; empty if there is none.
    Removes the other ones. Needs the lock."""
    parent, name = os.path.split(directory)
    adopted = ""
    for other in os.listdir(parent):
        path = os.path.join(parent, other)
        if re.fullmatch(re.escape(name) + r"\.partial-[0-9a-f]{16}", other) and not os.path.islink(
            path
        ):
            if not adopted and _mark_in(path, PARTIAL) == mark_of(uri, ()):
                adopted = path
                continue
            with contextlib.suppress(OSError):
                remove(path)
    return adopted


def remove(directory: str) -> None:
    """Removes a directory that has a mark, or is empty."""
    empty(directory)
    os.rmdir(directory)


def empty(directory: str) -> None:
    """Removes the content of a directory that has a mark. The marks go last: after an interrupt,
    the rest is still known as ours."""
    names = os.listdir(directory)
    if names and not MARKS.intersection(names):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
    # Without the mark of a complete copy, it is unfinished from here on.
    if COMPLETE in names:
        os.replace(os.path.join(directory, COMPLETE), os.path.join(directory, PARTIAL))
    for name in names:
        path = os.path.join(directory, name)
        if name in MARKS:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, PARTIAL))


def put_in_place(stage: str, directory: str, given: str) -> None:
    """Gives `stage` the name `directory`, whose former content, if it has a mark, goes."""
    try:
        os.rename(stage, directory)  # over an empty directory
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    check_ours(given, directory)
    try:
        _exchange(stage, directory)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        former = f"{directory}.partial-{secrets.token_hex(8)}"
        os.rename(directory, former)
        try:
            os.rename(stage, directory)
        except BaseException:
            os.rename(former, directory)
            raise
        stage = former
    # A file of the former copy that can't be removed does no harm to the new one.
    with contextlib.suppress(OSError):
        remove(stage)


def _exchange(one: str, other: str) -> None:
    """Exchanges two names atomically."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename: Any = getattr(libc, "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if rename(*paths, _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one, None, other)

"""A directory with the files of one model, which processes share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from types import TracebackType

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    from_native,
    shown_path,
)
from runai_model_streamer._paths import Path, is_remote, to_text
from runai_model_streamer._storage.model_directory import (
    COMPLETE,
    MARKS,
    Choice,
    Patterns,
    adopt_stage,
    check_destination,
    check_ours,
    empty,
    identity,
    lock,
    make_stage,
    mark_of,
    put_in_place,
    read_mark,
    remove,
    system_errors,
    write_mark,
)
from runai_model_streamer._storage.pull import pull_objects


class ObjectStorageModel:
    """A directory with the files of one model, filled once and shared by processes.

    If `dst` has a complete copy of `model_path`, nothing is locked, copied or written. Otherwise
    making one waits until no other process fills `dst`, which needs a lock beside it
    (``dst + ".lock"``) until close. pull_files() copies into a directory beside `dst`, which then
    takes the place of `dst`: until then a former copy stays as it is. Leaving without an error
    marks `dst` as complete, with the source and the patterns; from then on every
    ObjectStorageModel of that source copies nothing for these patterns. Another source, or other
    patterns, are copied anew.

    `dst` must not exist, be empty, or be the work of an ObjectStorageModel: files of others are
    never removed. Errors: ValueError for a path that is no URI and for a `dst` that can't be used,
    StreamerError for what the system refuses, and RuntimeError on leaving if no file was found.
    """

    SENTINEL_NAME = COMPLETE

    def __init__(
        self, model_path: Path, dst: Path, s3_credentials: S3Credentials | None = None
    ) -> None:
        self._lock_fd, self._stage, self._closed = -1, "", True
        self._model_path = to_text(model_path)
        if not is_remote(self._model_path):
            raise RunaiStreamerInvalidInputException(
                f"{self._model_path!r} is a local path; ObjectStorageModel copies objects"
            )
        given = to_text(dst)
        self.dir = given.rstrip("/") or given[:1]
        self._credentials = s3_credentials
        self._lock_path = self.dir + ".lock"
        self._directory = os.path.realpath(self.dir)
        self._pid = os.getpid()
        self._snapshot = self._model_path  # as the first list found it
        self._adopted = ""  # a stage that a process that was killed has left
        self._done: list[Choice] = []  # that the directory holds by now
        self._filled: tuple[int, int] | None = None  # its identity, once it has files
        if not given.strip():
            check_destination(given, self._directory)
        with self._system_errors():
            self._skip = self._is_complete() or self._prepare()
        if self._skip:
            self._unlock()
        self._closed = False

    def _system_errors(self) -> contextlib.AbstractContextManager[None]:
        return system_errors(self._model_path, self.dir)

    def _is_complete(self) -> bool:
        """True if the directory has a complete copy of the source, with any patterns."""
        self._mark = read_mark(self._directory)
        return self._mark is not None and self._mark.is_of(self._model_path)

    def _prepare(self) -> bool:
        """Takes the lock. Whether another process has meanwhile completed the directory."""
        check_destination(self.dir, self._directory)
        check_ours(self.dir, self._directory)
        self._lock_fd, alone = lock(self._lock_path)
        try:
            complete = self._is_complete()
            if self._mark is None:
                check_ours(self.dir, self._directory)
                os.makedirs(self._directory, exist_ok=True)
            if alone:
                adopted = adopt_stage(self._directory, self._model_path)
                self._stage = self._adopted = adopted
            if alone and self._mark is None:
                empty(self._directory)  # a copy that was never finished
            return complete
        except BaseException:
            self._close()
            raise

    def pull_files(self, allow_pattern: Patterns = None, ignore_pattern: Patterns = None) -> None:
        """As runai_model_streamer.pull_files(); nothing if the directory is complete."""
        choice = (allow_pattern, ignore_pattern)
        if self._skip and self._mark is not None and self._mark.has(choice):
            return
        with self._system_errors():
            self._pull(choice)

    def _pull(self, choice: Choice) -> None:
        if self._skip and self._lock_fd < 0:
            self._skip = self._prepare()
        also: Sequence[Choice] = ()
        if self._skip and self._mark is not None:
            if self._mark.has(choice):
                return
            also = self._mark.choices  # of one time with the new ones
        target = self._directory
        if self._filled is None:
            self._stage = target = self._stage or make_stage(self._directory, self._model_path)
        adopted = bool(self._adopted) and target == self._adopted
        self._adopted = ""
        found, self._snapshot = pull_objects(
            self._snapshot, target, *choice, self._credentials, MARKS, also, adopted
        )
        self._skip = False
        if found and self._stage:
            put_in_place(self._stage, self._directory, self.dir)
            self._stage = ""
            self._filled = identity(self._directory)
        self._done += [*also, choice]

    def __enter__(self) -> ObjectStorageModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        try:
            if kind is None and not self._skip:
                if self._filled is None:
                    raise RuntimeError(f"no files were found below {shown_path(self._model_path)}")
                with self._system_errors():
                    self._complete()
        finally:
            self._close()

    def _complete(self) -> None:
        """Marks the directory, unless a process that had no lock either has replaced it."""
        if identity(self._directory) == self._filled:
            write_mark(self._directory, mark_of(self._model_path, self._done))
        elif not (self._is_complete() and self._mark and all(map(self._mark.has, self._done))):
            raise from_native(
                "changed",
                f"{self._model_path}: another process replaced {self.dir!r} while it was filled",
                {"path": self._model_path},
            )

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        self._closed = True
        stage, self._stage = self._stage, ""
        if stage and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                remove(stage)
        self._unlock()

    def _unlock(self) -> None:
        # Closing releases the lock. The file stays: another process may be waiting for it.
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

"""For tests of programs that load from object storage: a directory stands in for the buckets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._paths import Path, is_remote, to_text
from runai_model_streamer._safetensors_streamer import SafetensorsStreamer
from runai_model_streamer._storage.listing import list_safetensors
from runai_model_streamer._storage.patterns import matches

__all__ = ["StreamerPatcher"]


class StreamerPatcher:
    """Shims of list_safetensors, pull_files and SafetensorsStreamer over a local directory.

    `s3://any-bucket/key` (and gs://, az://) is the file `key` below `local_root`::

        patcher = StreamerPatcher(str(tmp_path))
        monkeypatch.setattr("app.loading.list_safetensors", patcher.shim_list_safetensors)
        monkeypatch.setattr("app.loading.pull_files", patcher.shim_pull_files)
        monkeypatch.setattr("app.loading.SafetensorsStreamer", patcher.create_mock_streamer)
    """

    def __init__(self, local_root: Path) -> None:
        self.local_root = to_text(local_root)

    def local_path(self, path: Path) -> str:
        """The local path of the object at `path`; a local path is itself."""
        text = to_text(path)
        if not is_remote(text):
            return text
        _, _, key = text.partition("://")[2].partition("/")
        return os.path.join(self.local_root, key)

    def shim_list_safetensors(
        self, path: Path, s3_credentials: S3Credentials | None = None
    ) -> list[str]:
        """list_safetensors(), with URIs as the bucket would give them."""
        uri = to_text(path)
        found = list_safetensors(self.local_path(uri))
        if not is_remote(uri):
            return found
        return [f"{uri.rstrip('/')}/{os.path.basename(name)}" for name in found]

    def shim_pull_files(
        self,
        model_path: Path,
        dst: Path,
        allow_pattern: Sequence[str] | None = None,
        ignore_pattern: Sequence[str] | None = None,
        s3_credentials: S3Credentials | None = None,
    ) -> None:
        """pull_files(): copies what matches from the directory."""
        source = self.local_path(model_path)
        for directory, _, names in os.walk(source):
            for name in sorted(names):
                path = os.path.join(directory, name)
                key = os.path.relpath(path, self.local_root)
                if not matches(key, allow_pattern, ignore_pattern):
                    continue
                target = os.path.join(to_text(dst), os.path.relpath(path, source))
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copyfile(path, target)

    def create_mock_streamer(self, *_args: Any, **_kwargs: Any) -> SafetensorsStreamer:
        """A SafetensorsStreamer that reads the directory's files for URIs."""
        return _PatchedStreamer(self)


class _PatchedStreamer(SafetensorsStreamer):
    def __init__(self, patcher: StreamerPatcher) -> None:
        super().__init__()
        self._patcher = patcher

    def stream_files(self, paths: Sequence[Path], *args: Any, **kwargs: Any) -> None:
        super().stream_files([self._patcher.local_path(path) for path in paths], *args, **kwargs)

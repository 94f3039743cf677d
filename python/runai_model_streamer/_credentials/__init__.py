"""Credentials that the SDKs of the clouds find, for the engine.

The engine asks for credentials from its own threads, one at a time, when a request needs them, when
they are about to expire and when the server refused them. Each cloud's provider is a module of this
package, which imports the SDK when the engine first asks; it has `make(given)`, which returns a
function `(container, refresh) -> (values, expires_at, identity) or None`. None means that the
engine finds credentials by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runai_model_streamer._credentials import azure, gcs, s3
from runai_model_streamer._credentials.resolve import Found, Resolve

_MAKERS: dict[str, Callable[[Any], Resolve]] = {
    "s3": s3.make,
    "gcs": gcs.make,
    "azure": azure.make,
}


def make_provider(given: Any = None) -> Callable[[str, str, bool], Found]:
    """The provider for one load. `given` are credentials of the caller's, e.g. S3Credentials."""
    resolvers: dict[str, Resolve] = {}

    def provide(kind: str, container: str, refresh: bool) -> Found:
        if kind not in _MAKERS:
            return None
        if kind not in resolvers:
            resolvers[kind] = _MAKERS[kind](given)
        return resolvers[kind](container, refresh)

    return provide

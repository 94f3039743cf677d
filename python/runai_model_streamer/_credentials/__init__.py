"""Who asks: the identities that the clouds' own SDKs find, handed to the engine.

The engine asks for credentials from its own threads, one at a time, when a request needs them, when
they are about to expire and when the server refused them. Each cloud's provider is a module of this
package, imported when that cloud is first used; it has `make(given)`, which returns a function
`(container, refresh) -> (values, expires_at, identity) or None`. None means that the engine finds
credentials by itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Answer = tuple[dict[str, str], int, str] | None
Resolve = Callable[[str, bool], Answer]

_MODULES = {
    "s3": "runai_model_streamer._credentials.s3",
    "gcs": "runai_model_streamer._credentials.gcs",
    "azure": "runai_model_streamer._credentials.azure",
}


def make_provider(given: Any = None) -> Callable[[str, str, bool], Answer]:
    """The provider for one load. `given` are credentials of the caller's, e.g. S3Credentials."""
    resolvers: dict[str, Resolve] = {}

    def provide(kind: str, container: str, refresh: bool) -> Answer:
        if kind not in _MODULES:
            return None
        if kind not in resolvers:
            resolvers[kind] = importlib.import_module(_MODULES[kind]).make(given)
        return resolvers[kind](container, refresh)

    return provide

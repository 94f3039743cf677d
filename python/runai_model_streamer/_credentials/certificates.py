"""Certificates for systems without any, such as small containers."""

from __future__ import annotations

import os

_NAME = "RUNAI_STREAMER_FALLBACK_CA_FILE"


def fallback() -> dict[str, str]:
    """The engine's setting that names certifi's file; empty if that is not installed."""
    if os.environ.get(_NAME):
        return {}
    try:
        import certifi
    except ImportError:
        return {}
    return {_NAME: certifi.where()}

"""Azure credentials by azure-identity, if it is installed and nothing simpler is set."""

from __future__ import annotations

import importlib.util
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.resolve import Found, Resolve

_SCOPE = "https://storage.azure.com/.default"


def make(given: Any) -> Resolve:
    """`given` is for S3 and of no meaning here."""
    credential: Any = None

    def resolve(container: str, refresh: bool) -> Found:
        nonlocal credential
        if native.settings_sign("azure", container) or not _installed():
            return None  # the engine signs, or finds the simple kinds of identity
        if credential is None or refresh:
            # A new one keeps nothing that the server refused.
            from azure.identity import DefaultAzureCredential

            credential = DefaultAzureCredential()
        try:
            token = credential.get_token(_SCOPE)
        except Exception as error:
            # One line instead of a page: the tries, and the reasons of their failures.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise PermissionError("; ".join(lines)[:1500]) from None
        return {"token": token.token}, int(token.expires_on), "DefaultAzureCredential"

    return resolve


def _installed() -> bool:
    try:
        return importlib.util.find_spec("azure.identity") is not None
    except ModuleNotFoundError:  # there is no package azure at all
        return False

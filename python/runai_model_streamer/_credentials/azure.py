"""Azure credentials by azure-identity, where it is installed and nothing simpler is set."""

from __future__ import annotations

import importlib.util
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials import Answer, Resolve

_SCOPE = "https://storage.azure.com/.default"


def make(given: Any) -> Resolve:
    """`given` is for S3 and of no meaning here."""
    credential: Any = None

    def resolve(container: str, refresh: bool) -> Answer:
        nonlocal credential
        if _has_key_or_signature(container) or not _installed():
            return None  # the engine signs, or finds the simple kinds of identity
        if credential is None or refresh:
            # A new one keeps nothing that the server refused.
            from azure.identity import DefaultAzureCredential

            credential = DefaultAzureCredential()
        try:
            token = credential.get_token(_SCOPE)
        except Exception as error:
            # One line instead of a page: what was tried, and why it failed.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise PermissionError("; ".join(lines)[:1500]) from None
        return {"token": token.token}, int(token.expires_on), "DefaultAzureCredential"

    return resolve


def _installed() -> bool:
    try:
        return importlib.util.find_spec("azure.identity") is not None
    except ModuleNotFoundError:  # there is no package azure at all
        return False


def _has_key_or_signature(container: str) -> bool:
    """Whether the settings have a key or a signature for the account of `container`."""
    text = native.setting("AZURE_STORAGE_CONNECTION_STRING")
    if text:
        fields = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
        fields = {name.strip().lower(): value for name, value in fields.items()}
        endpoint = fields.get("blobendpoint", "").partition("://")[2]
        account = fields.get("accountname") or endpoint.partition(".")[0]
        simple = bool(
            fields.get("accountkey")
            or fields.get("sharedaccesssignature")
            or fields.get("usedevelopmentstorage")
        )
    else:
        account = native.setting("AZURE_STORAGE_ACCOUNT_NAME") or ""
        simple = bool(
            native.setting("AZURE_STORAGE_ACCOUNT_KEY") or native.setting("AZURE_STORAGE_SAS_TOKEN")
        )
    host, slash, _ = container.partition("/")  # https:// paths name the account's host
    return simple and (not slash or host.startswith(account + "."))

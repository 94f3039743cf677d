"""Google credentials by google-auth, if it is installed."""

from __future__ import annotations

import importlib.util
import json
from datetime import timezone
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.resolve import Found, Resolve

_SCOPES = ["https://www.googleapis.com/auth/devstorage.read_only"]
_INSTALL = "pip install 'runai-model-streamer[gcs]'"


def make(given: Any) -> Resolve:
    """`given` is for S3 and of no meaning here."""
    credentials: Any = None

    def resolve(container: str, refresh: bool) -> Found:
        nonlocal credentials
        path = native.setting("RUNAI_STREAMER_GCS_CREDENTIAL_FILE")
        if not _installed():
            _check_not_needed(path or native.setting("GOOGLE_APPLICATION_CREDENTIALS"))
            return None
        from google.auth.transport.requests import Request

        if credentials is None:
            credentials = _load(path)
            if credentials is None:
                return None
        if refresh or not credentials.valid:
            credentials.refresh(Request())
        # google-auth keeps times without a zone, in UTC.
        expiry = credentials.expiry
        expires_at = int(expiry.replace(tzinfo=timezone.utc).timestamp()) if expiry else 0
        return {"token": credentials.token}, expires_at, _describe(credentials, path)

    return resolve


def _installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) for name in ("google.auth", "requests"))
    except ModuleNotFoundError:  # there is no package google at all
        return False


def _load(path: str | None) -> Any:
    """None if google-auth finds nothing; the error of the engine then has a remedy."""
    import google.auth
    import google.auth.exceptions

    chosen = path or native.setting("GOOGLE_APPLICATION_CREDENTIALS")
    if chosen:
        try:
            with open(chosen, encoding="utf-8") as file:
                info = json.load(file)
            kind = info.get("type")
        except (OSError, ValueError, AttributeError):
            return None
        return _from_info(info) if kind in _KINDS else _from_file(chosen)
    try:
        return google.auth.default(scopes=_SCOPES)[0]
    except google.auth.exceptions.DefaultCredentialsError:
        return None


_KINDS = ("service_account", "authorized_user", "external_account")


def _from_info(info: dict[str, Any]) -> Any:
    """Without google-auth's search for a project, which may ask a service that is unreachable."""
    from google.auth import aws, identity_pool, pluggable
    from google.oauth2 import credentials, service_account

    if info["type"] == "service_account":
        return service_account.Credentials.from_service_account_info(info, scopes=_SCOPES)
    if info["type"] == "authorized_user":
        return credentials.Credentials.from_authorized_user_info(info, scopes=_SCOPES)
    source = info.get("credential_source") or {}
    external: Any = identity_pool
    if str(source.get("environment_id", "")).startswith("aws"):
        external = aws
    elif "executable" in source:
        external = pluggable
    return external.Credentials.from_info(info, scopes=_SCOPES)


def _from_file(path: str) -> Any:
    import google.auth

    return google.auth.load_credentials_from_file(path, scopes=_SCOPES)[0]


def _describe(credentials: Any, path: str | None) -> str:
    name = getattr(credentials, "service_account_email", None)
    who = f"service account {name}" if name and name != "default" else type(credentials).__module__
    origin = "RUNAI_STREAMER_GCS_CREDENTIAL_FILE" if path else "application default credentials"
    return f"{who} by google-auth ({origin})"


def _check_not_needed(path: str | None) -> None:
    """The engine reads only service accounts and authorized users by itself."""
    if not path:
        return
    try:
        with open(path, encoding="utf-8") as file:
            kind = json.load(file).get("type")
    except (OSError, ValueError, AttributeError):
        return  # the engine's message is better
    if kind not in ("service_account", "authorized_user"):
        raise ImportError(f"credentials of type {kind!r} need google-auth: {_INSTALL}")

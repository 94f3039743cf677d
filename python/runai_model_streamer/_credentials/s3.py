"""AWS credentials: the caller's, the environment's, or those of a boto3 session."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.resolve import Found, Resolve
from runai_model_streamer._credentials.s3_credentials import S3Credentials


def make(given: Any) -> Resolve:
    if given is not None and not isinstance(given, S3Credentials):
        raise TypeError(f"S3 credentials are S3Credentials, not {type(given).__name__}")
    chosen = given or S3Credentials()
    for field in dataclasses.fields(chosen):
        value = getattr(chosen, field.name)
        if value is not None and not isinstance(value, str):
            raise TypeError(f"S3Credentials.{field.name} is text, not {type(value).__name__}")
    if bool(chosen.access_key_id) != bool(chosen.secret_access_key):
        missing = "secret_access_key" if chosen.access_key_id else "access_key_id"
        raise ValueError(f"S3Credentials has no {missing}: give both, or none to have them found")
    unsigned = native.setting("RUNAI_STREAMER_S3_UNSIGNED")
    use_boto3 = not native.setting("RUNAI_STREAMER_NO_BOTO3_SESSION")

    def resolve(container: str, refresh: bool) -> Found:
        values = {}
        if chosen.region_name:
            values["region"] = chosen.region_name
        if chosen.endpoint:
            values["endpoint"] = chosen.endpoint
        if chosen.access_key_id and chosen.secret_access_key:
            values["access_key_id"] = chosen.access_key_id
            values["secret_access_key"] = chosen.secret_access_key
            if chosen.session_token:
                values["session_token"] = chosen.session_token
            identity = _identity(chosen.access_key_id, "the caller")
            return values, 0, identity
        found = None
        if use_boto3 and not unsigned:
            found = _from_environment() or _by_boto3(chosen.region_name)
        if found is not None:
            return {**found[0], **values}, found[1], found[2]
        return (values, 0, "") if values else None

    return resolve


def _from_environment() -> Found:
    """The credentials that boto3 finds first, without the import of boto3."""
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret or os.environ.get("AWS_CREDENTIAL_EXPIRATION"):
        return None
    values = {"access_key_id": key, "secret_access_key": secret}
    token = os.environ.get("AWS_SESSION_TOKEN") or os.environ.get("AWS_SECURITY_TOKEN")
    if token:
        values["session_token"] = token
    return values, 0, _identity(key, "AWS_ACCESS_KEY_ID")


def _by_boto3(region: str | None) -> Found:
    """_from_boto3() without secrets in its errors."""
    if importlib.util.find_spec("boto3") is None:
        return None
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return _from_boto3(region)
    except (BotoCoreError, ClientError):  # a text for users
        raise
    except Exception as error:  # may quote a response that holds a secret
        raise PermissionError(f"boto3 failed with {type(error).__name__}") from None


def _from_boto3(region: str | None) -> Found:
    """The credentials of a new boto3 session, which reuses none that the server refused."""
    import boto3

    # boto3 itself does not read AWS_REGION; STS is asked there.
    session = boto3.Session(region_name=region or native.setting("AWS_REGION") or None)
    credentials = session.get_credentials()
    if credentials is None:
        return None
    frozen = credentials.get_frozen_credentials()
    values = {"access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key}
    if frozen.token:
        values["session_token"] = frozen.token
    expiry = getattr(credentials, "_expiry_time", None)
    expires_at = int(expiry.timestamp()) if expiry is not None else 0
    identity = _identity(frozen.access_key, f"boto3 ({credentials.method})")
    return values, expires_at, identity


def _identity(access_key: str, source: str) -> str:
    """The name of an access key in errors."""
    return f"access key {native.shown_access_key(access_key)} from {source}"

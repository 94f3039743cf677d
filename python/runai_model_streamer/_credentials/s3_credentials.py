"""S3 credentials of the caller's."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class S3Credentials:
    """An identity, with region and endpoint. Values that are None are found as without this: the
    key and its secret by boto3 or the engine, region and endpoint by settings and profile."""

    access_key_id: str | None = None
    secret_access_key: str | None = dataclasses.field(default=None, repr=False)
    session_token: str | None = dataclasses.field(default=None, repr=False)
    region_name: str | None = None
    endpoint: str | None = None

"""One step of a diagnosis."""

from __future__ import annotations

import dataclasses

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclasses.dataclass(frozen=True)
class Step:
    """One check, and its result."""

    name: str
    status: str
    """ok; warn: a load works, but worse than it could; fail; skip: it does not apply, or was not
    reached."""
    text: str
    cure: str = ""
    cause: str = ""
    """A word for programs: bucket, region, key, token, clock, dns, proxy, ca, endpoint,
    permission, server, throttling, slow, credentials, missing, format, settings, memory, gpu."""

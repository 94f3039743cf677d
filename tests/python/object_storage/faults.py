"""What can go wrong between a client and a storage, and what has to come of it.

Each fault is done by the proxy (tests/support/servers/faults.lua) to the requests of one operation:
- "stream": reading tensors; the fault hits the ranges behind the header,
- "header": opening a file; the fault hits its first range,
- "list": listing a directory,
- "pull": copying objects to files; the fault hits their ranges.
"""

from __future__ import annotations

import dataclasses

OPERATIONS = ("stream", "header", "list", "pull")
READS = ("stream", "header", "pull")
SLOW = {"RUNAI_STREAMER_LOW_SPEED_SECONDS": "1"}
HASTY = {"RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "700"}
TWICE = {"RUNAI_STREAMER_MAX_ATTEMPTS": "2"}  # each takes its time
# On a busy machine other requests than the one of the fault take as long.
OFTEN = {"RUNAI_STREAMER_MAX_ATTEMPTS": "100"}


@dataclasses.dataclass(frozen=True)
class Fault:
    name: str
    details: dict[str, object]  # of Nginx.fault()
    # Of the error that has to come, or more, between bars: protocols differ. None: the right bytes.
    code: str | None = None
    at_once: bool = False  # the error comes without a second attempt
    operations: tuple[str, ...] = OPERATIONS
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    says: str = ""  # a pattern that is in the text of the error
    anonymous: bool = False  # the proxy changes what signatures cover
    checksum: bool = False  # only a checksum of the storage can tell


# More attempts than the table has otherwise: time has to end it.
PATIENT = {"RUNAI_STREAMER_MAX_ATTEMPTS": "100", "RUNAI_STREAMER_RETRY_SECONDS": "40"}
# A pause that the server asks for is no longer than requests are sent again.
BRIEF = {"RUNAI_STREAMER_MAX_ATTEMPTS": "100", "RUNAI_STREAMER_RETRY_SECONDS": "2"}
REDIRECTS = "redirects"
XML = "<Error><Code>InternalError</Code><Message>on purpose</Message></Error>"
LOGIN = "<!DOCTYPE html><html><title>Sign in</title><form action='/login'></form></html>"


def _status(status: int, **details: object) -> dict[str, object]:
    # Without a body: the status alone has to decide, whatever the protocol.
    return {"mode": "status", "status": status, "body": "", **details}


FAULTS = [
    # Passing trouble.
    *(
        Fault(f"{status} twice", _status(status, first=2))
        for status in (408, 429, 500, 502, 503, 504)
    ),
    Fault("503 with Retry-After", _status(503, first=1, retry_after=1)),
    # Reads at once may have one of them be the third again and again.
    Fault(
        "every third request fails",
        _status(500, every=3),
        operations=("stream", "pull"),
        settings=OFTEN,
    ),
    Fault("dropped twice", {"mode": "drop", "first": 2}),
    Fault("reset twice", {"mode": "reset", "first": 2}),
    Fault("body cut once", {"mode": "truncate", "bytes": 50, "first": 1}),
    Fault("bodies cut late", {"mode": "truncate", "bytes": 1 << 20}, operations=("stream", "pull")),
    Fault("stalls once", {"mode": "stall", "first": 1}, settings={**SLOW, **OFTEN}),
    Fault("silent once", {"mode": "delay", "ms": 4000, "first": 1}, settings={**HASTY, **OFTEN}),
    Fault("trickles once", {"mode": "rate", "bps": 1000, "first": 1}, settings={**SLOW, **OFTEN}),
    # An overloaded or restarted server: of the 60 s that are the default, and 20 s.
    Fault("503 for a while", _status(503, seconds=0.5), settings=PATIENT),
    Fault("reset for a while", {"mode": "reset", "seconds": 0.5}, settings=PATIENT),
    # Lasting trouble.
    Fault("500 for good", _status(500), "io"),
    Fault("503 for good", _status(503), "throttled"),
    Fault("dropped for good", {"mode": "drop"}, "network"),
    Fault("reset for good", {"mode": "reset"}, "network"),
    Fault(
        "bodies cut early",
        {"mode": "truncate", "bytes": 40},
        "short_read",
        operations=("stream", "list", "pull"),
    ),
    Fault("stalls for good", {"mode": "stall"}, "timeout", settings={**SLOW, **TWICE}),
    Fault(
        "silent for good",
        {"mode": "delay", "ms": 4000},
        "timeout",
        settings={**HASTY, **TWICE},
    ),
    Fault(
        "trickles for good",
        {"mode": "rate", "bps": 900},
        "timeout",
        operations=("stream", "pull"),
        settings={**SLOW, **TWICE},
    ),
    Fault("Retry-After of a day", _status(503, retry_after=86400), "throttled", settings=BRIEF),
    # Refusals.
    Fault("403", _status(403), "permission", at_once=True),
    Fault("404", _status(404), "not_found", at_once=True),
    Fault("412", _status(412), "changed", at_once=True, operations=READS),
    Fault("400", _status(400), "io", at_once=True),
    Fault("501", _status(501), "io", at_once=True),
    Fault("407", _status(407), "io", at_once=True),
    Fault(
        "403 with a long page", _status(403, body="x" * 1000, times=200), "permission", at_once=True
    ),
    Fault("403 without end", {"mode": "endless", "status": 403}, "permission", at_once=True),
    Fault("401", _status(401), "permission|credentials"),
    # Redirects that lead nowhere.
    Fault("redirected in a circle", {"mode": "circle"}, "io", says=REDIRECTS),
    Fault("redirected on and on", {"mode": "circle", "onward": 1}, "io", says=REDIRECTS),
    Fault("redirected for good", {"mode": "circle", "status": 301}, "io", says=REDIRECTS),
    Fault("redirected without a URL", _status(302), "io", at_once=True, says=REDIRECTS),
    Fault("304 unasked", _status(304), "io"),
    # Servers that do not do what they were asked to.
    Fault("200 without end", {"mode": "endless", "status": 200}, "io|unsupported"),
    Fault("a header without end", {"mode": "longheader"}, "io", at_once=True),
    Fault("an error with status 200", _status(200, body=XML), "io|unsupported"),
    Fault("204", _status(204), "io|unsupported"),
    Fault("416", _status(416), "io|short_read", operations=READS),
    Fault(
        "damaged",
        {"mode": "damaged"},
        "io",
        operations=("stream", "pull"),
        settings={"RUNAI_STREAMER_VERIFY_CHECKSUMS": "1"},
        says="checksum",
        checksum=True,
    ),
    Fault(
        "a login page",
        _status(200, type="text/html; charset=utf-8", body=LOGIN),
        "io",
        at_once=True,
        says="HTML|html",
    ),
    Fault("replaced since its header", {"mode": "replaced"}, "changed", True, ("stream",)),
    Fault(
        "Range ignored",
        {"mode": "norange"},
        "unsupported",
        True,
        READS,
        anonymous=True,
    ),
    Fault("another range", {"mode": "shift"}, "io", True, READS, anonymous=True),
    Fault("too many bytes", {"mode": "toomany"}, "io", True, READS, anonymous=True),
    Fault("no Content-Range", {"mode": "norangeheader"}, "io", at_once=True, operations=READS),
    Fault("compressed", {"mode": "coded"}, "unsupported", at_once=True),
    Fault("no size", {"mode": "nosize"}, "io", at_once=True, operations=("header",)),
]

"""Checks of each step on the way to the bytes of a path, for paths that fail or are slow."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import email.utils
import errno
import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials import certificates as certificates
from runai_model_streamer._credentials import make_provider
from runai_model_streamer._errors import StreamerError, shown_path, shown_text
from runai_model_streamer._paths import is_remote, is_url, to_native, to_text
from runai_model_streamer._session import Session
from runai_model_streamer._settings import current_settings, unknown_settings
from runai_model_streamer._tools.local_checks import HEADER_BYTES, header_step, local_steps
from runai_model_streamer._tools.steps import FAIL, OK, SKIP, WARN, Step
from runai_model_streamer._units import size_text

_TIMEOUT = 3.0  # seconds, of each step of the network
_SKEW = 300  # seconds that clocks may differ: signatures are refused from 15 minutes on
_READ_BYTES = 16 << 20
_READ_SECONDS = 2.0
_SLOW = 10 << 20  # bytes per second over a network; less is a warning
_TELLING = 0.5  # seconds of reading that give a rate
_SOON = 600  # seconds until an identity ends
# Of the requests of this command: enough for one hiccup.
_SOURCE = {
    "RUNAI_STREAMER_MAX_ATTEMPTS": "2",
    "RUNAI_STREAMER_RETRY_SECONDS": "4",
    "RUNAI_STREAMER_CONNECT_TIMEOUT_MS": "3000",
    "RUNAI_STREAMER_LOW_SPEED_SECONDS": "3",
}

# The cause, by the code of the server.
_CAUSES = {
    "NoSuchBucket": "bucket",
    "InvalidBucketName": "bucket",
    "ContainerNotFound": "bucket",
    "InvalidAccessKeyId": "key",
    "SignatureDoesNotMatch": "key",
    "AuthenticationFailed": "key",
    "ExpiredToken": "token",
    "TokenRefreshRequired": "token",
    "InvalidToken": "token",
    "RequestTimeTooSkewed": "clock",
    "RequestExpired": "clock",
    "AuthorizationHeaderMalformed": "region",
    "PermanentRedirect": "region",
    "IllegalLocationConstraintException": "region",
    "AccessDenied": "permission",
}
_PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_CURES = {
    "bucket": "Check the name of the bucket, and that the endpoint is the one that has it",
    "region": "Set AWS_REGION, or the region of the profile, to that of the bucket",
    "key": "Check the access key and its secret, and that they are of this endpoint",
    "token": "Renew the credentials, and check that the token belongs to the key",
    "clock": "Set the clock of this machine (chrony, systemd-timesyncd)",
    "dns": "Check the name of the host in the endpoint, and /etc/resolv.conf",
    "ca": "Name the authority's certificates in AWS_CA_BUNDLE or SSL_CERT_FILE",
    "endpoint": "Check the endpoint: its scheme (http:// or https://), host and port",
    "permission": "Give the identity the permissions to list and to read this path",
    "server": "Look at the log of the server, and try again later",
    "throttling": "Lower RUNAI_STREAMER_CONCURRENCY, or spread the load over prefixes",
    "slow": "Look at the network and at limits of the storage",
    "credentials": "Set credentials for this storage: docs/guides/s3.md, docs/guides/clouds.md",
    "missing": "Check the path, whose case matters",
}


# By the verification's code in OpenSSL.
_OUT_OF_DATE = "ca", "Renew the certificate of the server, and check the clock of this machine"
_OTHER_NAME = "endpoint", "Name the server as its certificate does"
_OF_CERTIFICATES = {9: _OUT_OF_DATE, 10: _OUT_OF_DATE, 62: _OTHER_NAME, 64: _OTHER_NAME}


def diagnose(path: str) -> Iterator[Step]:
    """The steps on the way to the bytes at `path`, as they are taken. The first that fails names
    the cause; those that depend on it are skipped."""
    text = to_text(path)
    yield from _settings()
    if is_remote(text):
        yield from _remote(text)
    else:
        yield from local_steps(text)


def _settings() -> Iterator[Step]:
    wrong = [one.problem for one in current_settings() if one.problem]
    if wrong:
        yield Step("settings", FAIL, wrong[0], "Correct the variable", "settings")
        return
    unknown = unknown_settings()
    if unknown:
        name, nearest = unknown[0]
        meant = f", did you mean {nearest}?" if nearest else ""
        yield Step("settings", WARN, f"{name} is no setting{meant}", "Correct its name")
    else:
        yield Step("settings", OK, "every variable is known and can be used")


def _failure(name: str, error: StreamerError, cause: str | None = None) -> Step:
    cause = cause or cause_of(error)
    return Step(name, FAIL, str(error), _CURES.get(cause, error.hint or ""), cause)


def cause_of(error: StreamerError) -> str:
    """The key of the cure for `error`, of a request to storage."""
    if error.server_code in _CAUSES:
        return _CAUSES[error.server_code]
    text = str(error).lower()
    if error.http_status == 407 or "proxy" in text:
        # Without one, what responds in the place of the store is at its address.
        return "proxy" if _any_proxy() else "endpoint"
    if error.code == "throttled" or error.http_status in (429, 503):
        return "throttling"
    if (error.http_status or 0) >= 500:
        return "server"
    if "certificate" in text:
        return "ca"
    if "resolve host" in text:
        return "dns"
    if error.code == "credentials":
        if "region" in text.partition("identity:")[0].partition("; endpoint")[0]:
            return "region"
        if "token" in text or "signature has expired" in text:
            return "token"
        return "key" if error.http_status else "credentials"
    if error.http_status == 401:
        return "key" if error.identity and not error.identity.startswith("none") else "credentials"
    if error.code == "permission":
        return "permission"
    if error.code == "not_found":
        return "missing"
    return "endpoint"


def _remote(path: str) -> Iterator[Step]:
    try:
        access = native.find_access(path, make_provider(), {**certificates.fallback(), **_SOURCE})
    except StreamerError as error:
        cause = "proxy" if any(name in str(error) for name in _PROXIES) else "settings"
        cure = error.hint or "Correct the path or the setting"
        yield Step("address", FAIL, str(error), cure, cause)
        return
    shown = shown_text(access["endpoint"])
    yield Step("address", OK, f"{shown} ({access['endpoint_from']})")
    yield from _identity(access)
    headers: dict[str, str] = {}
    reached = True
    for step in _network(access, headers):
        reached = reached and step.status != FAIL
        yield step
    if not reached:
        for name in ("clock", "region", "list", "first byte", "read"):
            yield Step(name, SKIP, "not reached")
        return
    yield _clock(headers)
    if native.has_regions(to_native(path)):
        yield _region(access, headers)
    yield from _requests(path)


def _identity(access: Mapping[str, Any]) -> Iterator[Step]:
    error = access["credentials"]
    if error is not None:
        yield _failure("credentials", error, "credentials")
        return
    who = access["identity"] or "nobody: requests are anonymous"
    ends = access["expires_at"]
    if not ends:
        yield Step("credentials", OK, who)
        return
    when = datetime.datetime.fromtimestamp(ends, datetime.timezone.utc).isoformat()
    left = ends - time.time()
    if left < 0:
        yield Step("credentials", FAIL, f"{who}: ended at {when}", _CURES["token"], "token")
    elif left < _SOON:
        yield Step("credentials", WARN, f"{who}: ends at {when}", "Renew the credentials soon")
    else:
        yield Step("credentials", OK, f"{who}, until {when}")


@dataclasses.dataclass(frozen=True)
class _Server:
    """The destination of a connection."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> _Server:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname or "", port)


def _network(access: Mapping[str, Any], headers: dict[str, str]) -> Iterator[Step]:
    """Name, proxy, connection and TLS; the headers of a response to a request without a body."""
    scheme = access["endpoint"].partition("://")[0]
    target = _Server.of(f"{scheme}://{access['host']}")
    proxy = _Server.of(access["proxy"]) if access["proxy"] else None
    if proxy is not None and proxy.scheme != "http":
        text = f"{access['proxy']} is no plain HTTP: the requests show whether it connects"
        yield Step("proxy", SKIP, text)
        return
    first = proxy or target
    try:
        address = _resolve(first)
    except OSError as error:
        text = f"{first.host} does not resolve: {error.strerror or error}"
        if proxy:
            yield _at_proxy(text, access)
        else:
            yield Step("name", FAIL, text, _CURES["dns"], "dns")
        return
    yield Step("name", OK, f"{first.host} is {address}")
    connection = None
    try:
        try:
            connection = socket.create_connection((first.host, first.port), _TIMEOUT)
        except OSError as error:
            text = f"{first.host}, port {first.port}: {_said(error)}"
            if proxy:
                yield _at_proxy(text, access)
            else:
                yield Step("connect", FAIL, text, _CURES["endpoint"], "endpoint")
            return
        if proxy:
            step = _through_proxy(connection, target, access)
            yield step
            if step.status == FAIL:
                return
        yield Step("connect", OK, f"{target.host}, port {target.port}")
        if target.scheme == "https":
            connection, step = _handshake(connection, target, access)
            yield step
            if step.status == FAIL:
                return
        else:
            yield Step("TLS", SKIP, "the endpoint is http://: nothing is encrypted")
        try:
            status = _ask(connection, target, access, headers)
        except OSError as error:
            # The request for http:// ends at the proxy.
            who = target if proxy is None or target.scheme == "https" else proxy
            text = f"{who.host}, port {who.port}, does not respond to HTTP: {_said(error)}"
            if who is target:
                yield Step("HTTP", FAIL, text, _CURES["endpoint"], "endpoint")
            else:
                yield _at_proxy(text, access)
            return
        if status == 407:
            yield _at_proxy("the proxy refuses (HTTP 407)", access)
            return
        yield Step("HTTP", OK, f"the server responds (HTTP {status})")
    finally:
        if connection is not None:
            connection.close()


def _said(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {_TIMEOUT:.0f} s"
    if error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _resolve(server: _Server) -> str:
    """An address of its host. Raises OSError."""
    pool = ThreadPoolExecutor(1)
    try:
        found = pool.submit(socket.getaddrinfo, server.host, server.port, 0, socket.SOCK_STREAM)
        return str(found.result(_TIMEOUT)[0][4][0])
    except FutureTimeout:
        raise OSError(errno.ETIMEDOUT, "the name servers do not respond") from None
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"it is no name of a host ({error})") from None
    finally:
        pool.shutdown(wait=False)


def _any_proxy() -> bool:
    return any(os.environ.get(name) for name in _PROXIES)


def _proxy_header(access: Mapping[str, Any]) -> str:
    value = os.environ.get(access["proxy_from"], "").partition("://")
    login, at, _ = (value[2] or value[0]).rpartition("@")
    if not at:
        return ""
    user, _, password = login.partition(":")
    word = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
    return f"Proxy-Authorization: Basic {base64.b64encode(word.encode()).decode()}\r\n"


def _at_proxy(text: str, access: Mapping[str, Any]) -> Step:
    """The failure of the proxy that `access` has."""
    cure = f"Check {access['proxy_from']} and NO_PROXY, and the user and the password in the former"
    return Step("proxy", FAIL, text, cure, "proxy")


def _through_proxy(connection: socket.socket, target: _Server, access: Mapping[str, Any]) -> Step:
    shown = _Server.of(access["proxy"]).host
    if target.scheme != "https":
        return Step("proxy", OK, f"connected to {shown}")
    where = f"{target.host}:{target.port}"
    try:
        connection.sendall(
            f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{_proxy_header(access)}\r\n".encode()
        )
        status, _ = _response(connection)
    except OSError as error:
        return _at_proxy(f"{shown} does not respond: {_said(error)}", access)
    if not 200 <= status < 300:
        return _at_proxy(f"{shown} refuses to connect to {where} (HTTP {status})", access)
    return Step("proxy", OK, f"{shown} connects to {where}")


def _handshake(
    connection: socket.socket, target: _Server, access: Mapping[str, Any]
) -> tuple[socket.socket, Step]:
    file, directory = access["ca_file"] or None, access["ca_directory"] or None
    shown = file or directory or "those of the TLS library"
    try:
        context = ssl.create_default_context(cafile=file, capath=directory)
        # As the engine verifies: an intermediate certificate may be trusted by itself.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        wrapped = context.wrap_socket(connection, server_hostname=target.host)
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate is not trusted: {error.verify_message} (certificates: {shown})"
        cause, cure = _OF_CERTIFICATES.get(error.verify_code, ("ca", _CURES["ca"]))
        return connection, Step("TLS", FAIL, text, cure, cause)
    except (ssl.SSLError, OSError) as error:
        if isinstance(error, ssl.SSLError) and file and "NO_CERTIFICATE" in str(error).upper():
            text = f"{file} holds no certificates"
            return connection, Step("TLS", FAIL, text, _CURES["ca"], "ca")
        text = f"port {target.port} of {target.host} does not speak TLS ({_said(error)})"
        return connection, Step("TLS", FAIL, text, _CURES["endpoint"], "endpoint")
    return wrapped, Step("TLS", OK, f"{wrapped.version()}, certificates: {shown}")


def _ask(
    connection: socket.socket,
    target: _Server,
    access: Mapping[str, Any],
    headers: dict[str, str],
) -> int:
    """A request without credentials or a body, for the headers of its response."""
    authority = access["host"]
    place = "/"
    if access["container"] and "/" not in access["container"]:
        bucket_in_host = authority.startswith(access["container"] + ".")
        place = "/" if bucket_in_host else "/" + urllib.parse.quote(access["container"])
    extra = ""
    if access["proxy"] and target.scheme == "http":
        place, extra = f"http://{authority}{place}", _proxy_header(access)
    connection.settimeout(_TIMEOUT)
    connection.sendall(
        f"HEAD {place} HTTP/1.1\r\nHost: {authority}\r\n{extra}"
        "User-Agent: model-streamer-doctor\r\nConnection: close\r\n\r\n".encode()
    )
    status, found = _response(connection)
    headers.update(found)
    return status


def _response(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """The status and the headers of a response. Raises OSError if it is none."""
    connection.settimeout(_TIMEOUT)
    data = b""
    while b"\r\n\r\n" not in data and len(data) < 1 << 16:
        part = connection.recv(1 << 12)
        if not part:
            break
        data += part
    lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if not data:
        raise OSError("it closes the connection")
    if not lines[0].startswith("HTTP/") or len(words) < 2 or not words[1].isdigit():
        raise OSError("what it sends is not HTTP")
    pairs = (line.partition(":") for line in lines[1:])
    return int(words[1]), {name.lower(): value.strip() for name, _, value in pairs}


def _clock(headers: Mapping[str, str]) -> Step:
    try:
        theirs = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return Step("clock", SKIP, "the server does not tell its time")
    skew = time.time() - theirs
    if abs(skew) > _SKEW:
        side = "ahead of" if skew > 0 else "behind"
        text = f"this machine is {abs(skew):.0f} s {side} the server"
        return Step("clock", FAIL, text, _CURES["clock"], "clock")
    return Step("clock", OK, f"{abs(skew):.0f} s from the server's")


def _region(access: Mapping[str, Any], headers: Mapping[str, str]) -> Step:
    told, ours = headers.get("x-amz-bucket-region", ""), access["region"]
    if told and ours and told != ours:
        text = f"the bucket is in {shown_text(told)}, requests are signed for {ours}"
        return Step("region", FAIL, text, _CURES["region"], "region")
    return Step("region", OK, f"{ours}" + (", as the server says" if told else ""))


def _requests(path: str) -> Iterator[Step]:
    """A list, the first byte, and a read for some seconds."""
    files: list[str] = []
    step = _listed(path, files)
    yield step
    if step.status == FAIL and step.cause != "permission":
        yield Step("first byte", SKIP, "not reached")
        yield Step("read", SKIP, "not reached")
        return
    listed = step.status != FAIL
    target = files[0] if files else path
    if not files and not _names_file(path):
        yield Step("first byte", SKIP, "no object is known")
        yield Step("read", SKIP, "no object is known")
        return
    session = Session([target], options={"source": _SOURCE, "concurrency": 4})
    try:
        began = time.monotonic()
        try:
            (prefix,) = session.open([target], HEADER_BYTES)
        except StreamerError as error:
            yield _failure("first byte", error)
            yield Step("read", SKIP, "not reached")
            return
        waited = time.monotonic() - began
        note = "" if listed else ": it can be read, but not listed"
        yield Step("first byte", OK, f"{1000 * waited:.0f} ms, {shown_path(target)}{note}")
        yield _read(session, target)
        yield from header_step(target, prefix, session.sizes[target])
    finally:
        with contextlib.suppress(StreamerError):
            session.close()


def _names_file(path: str) -> bool:
    return "." in path.partition("?")[0].rstrip("/").rpartition("/")[2] or is_url(path)


def _listed(path: str, files: list[str]) -> Step:
    options = {**certificates.fallback(), **_SOURCE}
    try:
        found = native.list_objects(path, False, make_provider(), options)
        if not found and not _names_file(path):
            found = native.list_objects(path, True, make_provider(), options)
    except StreamerError as error:
        if error.code == "unsupported":
            return Step("list", SKIP, str(error))
        return _failure("list", error)
    if not found and _names_file(path):
        return Step("list", OK, "the path is that of one object")
    if not found:
        text = "there is nothing below this path"
        return Step("list", FAIL, text, _CURES["missing"], "missing")
    found.sort(key=lambda one: -one[1])  # the largest is the best to measure with
    files += [one[0] for one in found]
    return Step("list", OK, f"{len(found)} objects")


def _read(session: Session, path: str) -> Step:
    size = min(session.sizes[path], _READ_BYTES)
    if size == 0:
        return Step("read", SKIP, "the object is empty")
    began = time.monotonic()
    done = 0
    part = 1 << 20
    try:
        while done < size and time.monotonic() - began < _READ_SECONDS:
            count = min(part, size - done)
            done += len(next(session.read([(path, done, count)])))
            part = min(2 * part, 8 << 20)
    except StreamerError as error:
        return _failure("read", error)
    seconds = max(time.monotonic() - began, 1e-6)
    retries = session.stream.stats()["retries"]
    text = f"{size_text(done)} in {seconds:.2f} s, {size_text(done / seconds)}/s by one connection"
    if retries:
        text += f", {retries} retries"
    if seconds >= _TELLING and done / seconds < _SLOW:
        return Step("read", WARN, text, _CURES["slow"], "slow")
    return Step("read", OK, text)


def cause_in(steps: list[Step]) -> str | None:
    """The cause that the first failed step names, else that of the first warning; None: all is
    well."""
    for status in (FAIL, WARN):
        for step in steps:
            if step.status == status and step.cause:
                return step.cause
    return None

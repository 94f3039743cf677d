"""A stand-in for Google Cloud Storage, its token service and the metadata server.

Written from the public documentation of the JSON API. It does what emulators lack: pages of lists,
HEAD, 416, preconditions on generations, checksums, and credentials that are checked. The official
client accepts it.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import itertools
import json
import threading
import time
import urllib.parse
from email.parser import BytesParser

from .canned import Answer, Canned, Seen

SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


@dataclasses.dataclass
class Blob:
    data: bytes
    generation: int
    updated: float = dataclasses.field(default_factory=time.time)

    @functools.cached_property
    def crc32c(self) -> str:
        import google_crc32c

        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()

    @functools.cached_property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()


class GcsStandIn(Canned):
    """Buckets at `url`. With `private`, requests need a token that the stand-in has issued:
    by its token service for `accounts` (email -> public key) and `refresh_tokens`, by its exchange
    for `subjects` (tokens of other identity providers), or as the metadata server. Tokens live for
    `lifetime` seconds; revoke() ends all at once.
    """

    def __init__(self, private: bool = False) -> None:
        super().__init__(self._answer)
        self.private, self.lifetime = private, 3600.0
        self.buckets: dict[str, dict[str, Blob]] = {}
        self.accounts: dict[str, object] = {}
        self.refresh_tokens: set[str] = set()
        self.subjects: set[str] = set()
        self.tokens: dict[str, float] = {}
        self.versioned = False  # true: former generations are kept
        self.kept: dict[tuple[str, str, str], Blob] = {}  # by bucket, name and generation
        self.damage: set[str] = set()  # objects whose bytes are not those of their checksum
        self._numbers = itertools.count(int(time.time() * 1e6))
        self._lock = threading.Lock()

    def put(self, bucket: str, name: str, data: bytes) -> Blob:
        with self._lock:
            blob = Blob(data, next(self._numbers))
            self.buckets.setdefault(bucket, {})[name] = blob
            if self.versioned:
                self.kept[bucket, name, str(blob.generation)] = blob
            return blob

    def issue(self) -> str:
        with self._lock:
            token = f"token-{next(self._numbers)}"
            self.tokens[token] = time.time() + self.lifetime
            return token

    def revoke(self) -> None:
        self.tokens.clear()

    def client(self):
        """The official client, which stores objects with an upload."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage
        from google.oauth2.credentials import Credentials

        who = Credentials(self.issue()) if self.private else AnonymousCredentials()
        return storage.Client("test", who, client_options={"api_endpoint": self.url})

    def _answer(self, seen: Seen) -> Answer:
        url = urllib.parse.urlsplit(seen.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/token":
            return self._token(dict(urllib.parse.parse_qsl(seen.body.decode())))
        if url.path == "/v1/token":
            return self._exchange(dict(urllib.parse.parse_qsl(seen.body.decode())))
        if url.path.endswith(":generateAccessToken"):
            return self._impersonate(seen)
        if url.path.startswith("/computeMetadata/") or url.path == "/":
            return self._metadata(url.path, seen)
        # Names of objects are one segment: a slash in them is encoded.
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        kind = parts.pop(0) if parts[0] in ("upload", "download") else ""
        if parts[:3] != ["storage", "v1", "b"]:
            return _error(404, "notFound", "Not Found")
        refusal = self._authorize(seen)
        if refusal:
            return refusal
        bucket, name = (parts + ["", ""])[3], "/".join(parts[5:])
        if seen.method == "POST" and not bucket:
            self.buckets.setdefault(json.loads(seen.body)["name"], {})
            return _json({"kind": "storage#bucket", "name": json.loads(seen.body)["name"]})
        if bucket not in self.buckets:
            return _error(404, "notFound", "The specified bucket does not exist.")
        if kind == "upload":
            return self._upload(bucket, query, seen)
        if len(parts) == 4:
            return _json({"kind": "storage#bucket", "name": bucket, "id": bucket})
        if not name:
            return self._list(bucket, query)
        return self._object(bucket, name, query, seen, media=query.get("alt") == "media")

    def _authorize(self, seen: Seen) -> Answer | None:
        if not self.private:
            return None
        given = seen.headers.get("authorization", "")
        if not given:
            who = "Anonymous caller does not have storage.objects.get access to the Google Cloud "
            return _error(401, "required", who + "Storage object.")
        if self.tokens.get(given.removeprefix("Bearer "), 0) > time.time():
            return None
        return _error(401, "authError", "Invalid Credentials")

    def _upload(self, bucket: str, query: dict[str, str], seen: Seen) -> Answer:
        if query.get("uploadType") == "media":
            name, data = query["name"], seen.body
        else:  # multipart: the metadata, then the bytes
            head = f"Content-Type: {seen.headers['content-type']}\r\n\r\n".encode()
            meta, _ = BytesParser().parsebytes(head + seen.body).get_payload()
            name = json.loads(meta.get_payload())["name"]
            boundary = seen.body.split(b"\r\n", 1)[0]
            data = seen.body.split(boundary)[2].split(b"\r\n\r\n", 1)[1][:-2]
        return _json(self._resource(bucket, name, self.put(bucket, name, data)))

    def _resource(self, bucket: str, name: str, blob: Blob) -> dict[str, object]:
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{blob.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(blob.generation),
            "metageneration": "1",
            "size": str(len(blob.data)),
            "crc32c": blob.crc32c,
            "md5Hash": blob.md5,
            "etag": f"CO{blob.generation}",
        }

    def _list(self, bucket: str, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(int(query.get("maxResults", 1000)), 1000)
        entries: dict[str, dict[str, object] | None] = {}  # None: a directory
        for name in sorted(self.buckets[bucket]):
            if not name.startswith(prefix):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                entries[name[: cut + len(delimiter)]] = None
            else:
                entries[name] = self._resource(bucket, name, self.buckets[bucket][name])
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        names = [name for name in entries if name > after]
        page = names[:limit]
        answer: dict[str, object] = {"kind": "storage#objects"}
        items = [entries[name] for name in page if entries[name] is not None]
        directories = [name for name in page if entries[name] is None]
        if items:
            answer["items"] = items
        if directories:
            answer["prefixes"] = directories
        if len(names) > limit:
            answer["nextPageToken"] = base64.urlsafe_b64encode(page[-1].encode()).decode()
        return _json(answer)

    def _object(
        self, bucket: str, name: str, query: dict[str, str], seen: Seen, media: bool
    ) -> Answer:
        blob = self.buckets[bucket].get(name)
        wanted = query.get("generation")
        blob = self.kept.get((bucket, name, wanted or ""), blob)
        if blob is None or (wanted and wanted != str(blob.generation)):
            message = f"No such object: {bucket}/{name}"
            if media:
                return Answer(404, {"Content-Type": "text/html; charset=UTF-8"}, message.encode())
            return _error(404, "notFound", message)
        match = query.get("ifGenerationMatch")
        if match is not None and match != str(blob.generation):
            return _error(412, "conditionNotMet", "At least one of the pre-conditions did not hold")
        if not media:
            return _json(self._resource(bucket, name, blob))
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": f"CO{blob.generation}",
            "X-Goog-Generation": str(blob.generation),
            "X-Goog-Metageneration": "1",
            "X-Goog-Hash": f"crc32c={blob.crc32c},md5={blob.md5}",
            "X-Goog-Stored-Content-Length": str(len(blob.data)),
            "Accept-Ranges": "bytes",
        }
        data = blob.data
        if name in self.damage and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        span = _range(seen.headers.get("range", ""), len(data))
        if span is None:
            return Answer(200, headers, data)
        first, last = span
        if first > last:
            headers["Content-Range"] = f"bytes */{len(data)}"
            return Answer(416, headers, b"Requested range not satisfiable")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Answer(206, headers, data[first : last + 1])

    def _token(self, form: dict[str, str]) -> Answer:
        if form.get("grant_type") == "refresh_token":
            if form["refresh_token"] in self.refresh_tokens:
                return self._grant()
            return _json({"error": "invalid_grant", "error_description": "Bad Request"}, 400)
        try:
            self._verify(form["assertion"])
        except Exception as reason:
            description = f"Invalid JWT: {reason}"
            return _json({"error": "invalid_grant", "error_description": description}, 400)
        return self._grant()

    def _exchange(self, form: dict[str, str]) -> Answer:
        """RFC 8693: a token of another identity provider for one of this."""
        kind = "urn:ietf:params:oauth:grant-type:token-exchange"
        if form.get("grant_type") != kind or form.get("subject_token") not in self.subjects:
            reason = {"error": "invalid_grant", "error_description": "Not an accepted subject"}
            return _json(reason, 400)
        answer = self._grant()
        issued = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        return _json({**json.loads(answer.body), **issued})

    def _impersonate(self, seen: Seen) -> Answer:
        refusal = self._authorize(seen)
        if refusal:
            return refusal
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
        return _json({"accessToken": self.issue(), "expireTime": expiry})

    def _verify(self, assertion: str) -> None:
        """Raises if the assertion was not signed by one of the accounts, or is out of date."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        head, body, signature = assertion.split(".")
        claims = json.loads(_decode(body))
        if json.loads(_decode(head))["alg"] != "RS256":
            raise ValueError("the algorithm")
        key = self.accounts[claims["iss"]]
        content = f"{head}.{body}".encode()
        key.verify(_decode(signature), content, padding.PKCS1v15(), hashes.SHA256())
        now = time.time()
        # Google's own library always names the public service.
        audiences = (f"{self.url}/token", "https://oauth2.googleapis.com/token")
        if claims["aud"] not in audiences or SCOPE not in claims["scope"].split():
            raise ValueError("the audience or the scope")
        if not now - 300 < claims["iat"] <= now + 60 or not now < claims["exp"] <= now + 3660:
            raise ValueError("the time")

    def _grant(self) -> Answer:
        token = {"access_token": self.issue(), "expires_in": int(self.lifetime)}
        return _json({**token, "token_type": "Bearer"})

    def _metadata(self, path: str, seen: Seen) -> Answer:
        if path != "/" and seen.headers.get("metadata-flavor") != "Google":
            return Answer(403, {}, b"Missing Metadata-Flavor:Google header.")
        answer = Answer(404)
        if path == "/":
            answer = Answer(200)
        elif path.endswith("/token"):
            answer = self._grant()
        elif path.endswith("/service-accounts/default/"):
            answer = _json({"email": "robot@test.example", "scopes": [SCOPE], "aliases": []})
        elif path.endswith("/project/project-id"):
            answer = Answer(200, {}, b"test")
        answer.headers["Metadata-Flavor"] = "Google"
        answer.headers.setdefault("Content-Type", "application/text")
        return answer


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _range(header: str, size: int) -> tuple[int, int] | None:
    """The first and the last byte; None if their order is wrong."""
    if not header.startswith("bytes=") or "," in header:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last) if last else size - 1, size - 1)


def _json(value: object, status: int = 200) -> Answer:
    headers = {"Content-Type": "application/json; charset=UTF-8", "X-GUploader-UploadID": "upload"}
    return Answer(status, headers, json.dumps(value).encode())


def _error(status: int, reason: str, message: str) -> Answer:
    details = {"domain": "global", "reason": reason, "message": message}
    return _json({"error": {"code": status, "message": message, "errors": [details]}}, status)

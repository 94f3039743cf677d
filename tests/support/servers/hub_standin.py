"""A stand-in for the model hub: its API for trees, its redirects, and the store behind them.

Large files are answered with a redirect to a store at another origin, whose addresses are signed
and expire; small ones are sent by the hub itself. Written from the public documentation.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import time
import urllib.parse

from .canned import Answer, Canned, Seen
from .gcs_standin import _range


class HubStandIn(Canned):
    """Repositories at `url`. `commits` maps (repo, revision) to a commit, `files` a commit to
    {path: bytes}. Files of `large` bytes come from `store_url`. Repositories in `private` need the
    token; `renamed` maps old names to new ones.
    """

    token = "hf_test_token"

    def __init__(self, page: int = 1000, large: int = 1 << 20) -> None:
        super().__init__(self._answer)
        self.page, self.large = page, large
        self.commits: dict[tuple[str, str], str] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.lifetime = 3600.0
        self.store = Canned(self._stored)
        self.store_url = self.store.url  # the target of its redirects
        self._expiry: dict[str, float] = {}
        self._numbers = itertools.count()

    def __enter__(self) -> HubStandIn:
        self.store.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.store.__exit__(*exception)

    def push(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Adds files to a revision, as a new commit."""
        known = self.files.get(self.commits.get((repo, revision), ""), {})
        commit = hashlib.sha1(f"{repo}{revision}{next(self._numbers)}".encode()).hexdigest()
        self.files[commit] = {**known, **files}
        self.commits[repo, revision] = commit
        return commit

    def _commit(self, repo: str, revision: str) -> str | None:
        if revision in self.files:
            return revision
        return self.commits.get((repo, revision))

    def _refuse(self, repo: str, seen: Seen) -> Answer | None:
        if repo not in {name for name, _ in self.commits}:
            return _error(401, "RepoNotFound", "Repository not found")
        given = seen.headers.get("authorization")
        if repo in self.private and given != f"Bearer {self.token}":
            if given:
                return _error(403, "GatedRepo", "Access to model is restricted")
            return _error(401, "RepoNotFound", "Repository not found")
        return None

    def _answer(self, seen: Seen) -> Answer:
        url = urllib.parse.urlsplit(seen.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        if api:
            parts = parts[2:]
        repo = "/".join(parts[:2])
        if repo in self.renamed:
            new = seen.path.replace(repo, self.renamed[repo], 1)
            return Answer(307, {"Location": new}, b"renamed")
        if len(parts) < 4 or parts[2] not in (("tree", "revision") if api else ("resolve",)):
            return _error(404, "", "Not Found")
        refusal = self._refuse(repo, seen)
        if refusal:
            return refusal
        commit = self._commit(repo, parts[3])
        if commit is None:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        name = "/".join(parts[4:])
        if parts[2] == "revision":
            return Answer(200, {}, json.dumps({"sha": commit}).encode())
        if api:
            return self._tree(commit, name, query, seen)
        data = self.files[commit].get(name)
        if data is None:
            return _error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_digest("sha1", data)}"'}
        if len(data) < self.large:
            return _file(data, seen, headers)
        expiry = time.time() + self.lifetime
        signature = f"{next(self._numbers)}"
        self._expiry[signature] = expiry
        address = f"{self.store_url}/{commit}/{urllib.parse.quote(name)}?Signature={signature}"
        headers |= {"Location": address, "X-Linked-Size": str(len(data))}
        headers["X-Linked-ETag"] = f'"{_digest("sha256", data)}"'
        return Answer(302, headers, b"Found. Redirecting")

    def _tree(self, commit: str, directory: str, query: dict[str, str], seen: Seen) -> Answer:
        prefix = directory + "/" if directory else ""
        entries: dict[str, dict[str, object]] = {}
        for name, data in sorted(self.files[commit].items()):
            if not name.startswith(prefix):
                continue
            steps = name[len(prefix) :].split("/")
            for depth in range(1, len(steps)):
                below = prefix + "/".join(steps[:depth])
                if query.get("recursive") == "true" or depth == 1:
                    entries[below] = {"type": "directory", "oid": "0", "size": 0, "path": below}
            if query.get("recursive") == "true" or len(steps) == 1:
                entries[name] = {"type": "file", "oid": "0", "size": len(data), "path": name}
                if len(data) >= self.large:
                    digest = _digest("sha256", data)
                    entries[name]["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 135}
        if directory and not entries:
            return _error(404, "EntryNotFound", "Entry not found")
        start = int(query.get("cursor", 0))
        page = list(entries.values())[start : start + self.page]
        headers = {"Content-Type": "application/json"}
        if start + self.page < len(entries):
            more = urllib.parse.urlencode({**query, "cursor": start + self.page})
            here = f"http://{seen.headers['host']}{seen.path.partition('?')[0]}"
            headers["Link"] = f'<{here}?{more}>; rel="next"'
        return Answer(200, headers, json.dumps(page).encode())

    def _stored(self, seen: Seen) -> Answer:
        url = urllib.parse.urlsplit(seen.path)
        if "authorization" in seen.headers:
            return Answer(400, {}, b"Only one auth mechanism allowed")
        signature = dict(urllib.parse.parse_qsl(url.query)).get("Signature", "")
        if self._expiry.get(signature, 0) < time.time():
            return Answer(403, {}, b"Request has expired")
        commit, _, name = urllib.parse.unquote(url.path).strip("/").partition("/")
        data = self.files[commit][name]
        return _file(data, seen, {"ETag": f'"{_digest("md5", data)}"'})


# Every answer about a file has one, and files are large.
@functools.lru_cache(maxsize=32)
def _digest(algorithm: str, data: bytes) -> str:
    return hashlib.new(algorithm, data).hexdigest()


def _file(data: bytes, seen: Seen, headers: dict[str, str]) -> Answer:
    if seen.headers.get("if-match", headers["ETag"]) != headers["ETag"]:
        return Answer(412)
    span = _range(seen.headers.get("range", ""), len(data))
    if span is None:
        return Answer(200, headers, data)
    first, last = span
    if first > last:
        return Answer(416, {"Content-Range": f"bytes */{len(data)}"})
    headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Answer(206, headers, data[first : last + 1])


def _error(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Message": message, "Content-Type": "application/json"}
    if code:
        headers["X-Error-Code"] = code
    return Answer(status, headers, json.dumps({"error": message}).encode())

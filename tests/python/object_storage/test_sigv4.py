"""Signatures of the core equal botocore's, byte for byte."""

from __future__ import annotations

import datetime
import json
import pathlib
import random
import shutil
import subprocess
import unittest.mock
import urllib.parse

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHARACTERS = "abcXYZ019-_.~ /+%=&?#:@!$'()*,;<>[]{}|\\^`\"äß€😀\u0301"
HASHES = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "UNSIGNED-PAYLOAD",
]


@pytest.fixture(scope="module")
def tool() -> str:
    """The program of tests/cpp/http, from whichever build directory has it."""
    found = sorted(ROOT.glob("build*/**/sigv4_tool"), key=lambda path: path.stat().st_mtime)
    if not found:
        build = ROOT / "build" / "sigv4"
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DSTREAMER_TESTS=ON"]
        launcher = f"-DCMAKE_CXX_COMPILER_LAUNCHER={shutil.which('ccache') or ''}"
        options = ["-DSTREAMER_PYTHON=OFF", launcher]
        subprocess.run([*configure, *options], check=True, capture_output=True)
        target = ["cmake", "--build", str(build), "--target", "sigv4_tool", "--parallel", "2"]
        subprocess.run(target, check=True, capture_output=True)
        found = list(build.glob("**/sigv4_tool"))
    return str(found[-1])


def make_case(rng: random.Random) -> dict:
    def text(least: int, most: int, characters: str = CHARACTERS) -> str:
        return "".join(rng.choice(characters) for _ in range(rng.randint(least, most)))

    def encode(part: str, keep: str = "-_.~") -> str:
        return urllib.parse.quote(part, safe=keep)

    key = text(1, 60)
    scheme = rng.choice(["http", "https"])
    host = rng.choice(["127.0.0.1", "bucket.s3.eu-west-1.amazonaws.com", "S3.Example.COM"])
    port = rng.choice(["", ":9000", ":443", ":80"])
    names = rng.sample(["prefix", "delimiter", "list-type", "continuation-token", "a", "B"], 3)
    pairs = [f"{name}={encode(text(0, 20))}" for name in names[: rng.randint(0, 3)]]
    query = "?" + "&".join(pairs) if pairs else ""
    headers = {}
    if rng.random() < 0.7:
        start = rng.randrange(1 << 40)
        headers["Range"] = f"bytes={start}-{start + rng.randrange(1 << 30)}"
    if rng.random() < 0.5:
        headers["If-Match"] = f'"{rng.getrandbits(128):x}"'
    if rng.random() < 0.3:
        headers["x-amz-request-payer"] = "requester"
    if rng.random() < 0.2:
        headers["X-Custom"] = "  two   words  and\ttab "
    return {
        "method": rng.choice(["GET", "HEAD", "PUT"]),
        "url": f"{scheme}://{host}{port}/{encode(key, '/-_.~')}{query}",
        "headers": headers,
        "access_key": "AKIA" + text(16, 16, "ABCDEFGH0123"),
        "secret_key": text(40, 40, "abcDEF012/+"),
        "token": text(100, 300, "abcDEF012/+=") if rng.random() < 0.5 else "",
        "region": rng.choice(["us-east-1", "eu-west-1", "cn-north-1", "auto", "x"]),
        "service": rng.choice(["s3", "s3express", "sts"]),
        "time": rng.randrange(1_000_000_000, 4_000_000_000),
        "payload_hash": rng.choice(HASHES),
    }


def sign_with_botocore(case: dict) -> str:
    request = AWSRequest(case["method"], case["url"], headers=dict(case["headers"]))
    credentials = Credentials(case["access_key"], case["secret_key"], case["token"] or None)
    auth = S3SigV4Auth(credentials, case["service"], case["region"])
    when = datetime.datetime.fromtimestamp(case["time"], datetime.timezone.utc)
    with unittest.mock.patch("botocore.auth.get_current_datetime", lambda *_: when):
        with unittest.mock.patch.object(auth, "payload", lambda _: case["payload_hash"]):
            auth.add_auth(request)
    return request.headers["Authorization"]


def test_signatures_equal_botocores(tool):
    rng = random.Random(20240229)
    cases = [make_case(rng) for _ in range(5000)]
    lines = "\n".join(json.dumps(case) for case in cases) + "\n"
    done = subprocess.run([tool], input=lines, capture_output=True, text=True, check=True)
    ours = done.stdout.splitlines()
    assert len(ours) == len(cases)
    for case, signed in zip(cases, ours, strict=True):
        assert signed == sign_with_botocore(case), case

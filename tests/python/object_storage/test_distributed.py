"""Ranks that share the reading of a store that verifies signatures."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.python.distributed.cluster import Cluster
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support import models

pytestmark = pytest.mark.servers


@pytest.fixture
def stored(tmp_path: Path, ceph, bucket) -> tuple[list[str], list[list[str]]]:
    """URIs of two objects, and (name, digest) of every tensor."""
    files = models.dense(tmp_path, files=2, tensors=8)
    directory = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    uris = []
    for file in files:
        key = f"{directory}/{Path(file).name}"
        ceph.client().upload_file(file, bucket, key)
        uris.append(f"s3://{bucket}/{key}")
    return uris, [list(pair) for file in files for pair in models.digests(file).items()]


def test_ranks_share_what_one_of_them_read(tmp_path: Path, ceph, stored) -> None:
    uris, expected = stored
    env = {**S3_ENV, "AWS_ENDPOINT_URL": ceph.url}
    found = Cluster(tmp_path, 3, env).load(uris)
    for result in found.values():
        assert result["tensors"] == expected
    read = [int(r["notes"]["distributed"].split(", ")[1].split()[0]) for r in found.values()]
    assert sum(read) == len(expected) << 20
    assert max(read) <= (len(expected) << 20) // 3 + 4096


def test_a_refusal_reaches_every_rank(tmp_path: Path, ceph, stored) -> None:
    """Only one rank's key is wrong."""
    uris, _ = stored
    env = {**S3_ENV, "AWS_ENDPOINT_URL": ceph.url}
    wrong = {1: {"AWS_SECRET_ACCESS_KEY": "not the key"}}
    for result in Cluster(tmp_path, 2, env, rank_env=wrong).run("load", uris).values():
        assert "PermissionError" in result["bases"]
        assert "rank 1 on " in result["text"]
        assert result["works"]

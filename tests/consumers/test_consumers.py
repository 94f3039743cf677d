"""vLLM's and SGLang's own loaders, from their published packages, on this package.

`make test-consumers`. Each test is a process of the consumer's environment (driver.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runai_model_streamer
from tests.consumers import checkpoint
from tests.consumers.prepare import CONSUMERS, Consumer, prepare
from tests.support.needs import running
from tests.support.servers import free_port
from tests.support.servers.ceph import ACCESS_KEY, SECRET_KEY, Ceph

DRIVER = Path(__file__).with_name("driver.py")
SETTINGS = {"concurrency": 3, "memory_limit": 20_000_000, "distributed": False}


@pytest.fixture(scope="module", params=list(CONSUMERS))
def consumer(request: pytest.FixtureRequest) -> Consumer:
    chosen = CONSUMERS[request.param]
    prepare(chosen)
    return chosen


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.make(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bucket(directory: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The checkpoint in a bucket, and the environment that reaches it."""
    boto3 = pytest.importorskip("boto3")
    with running(Ceph()) as ceph:
        client = boto3.client(
            "s3",
            endpoint_url=ceph.url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        client.create_bucket(Bucket="models")
        for file in directory.iterdir():
            client.upload_file(str(file), "models", f"org/llama/{file.name}")
        yield (
            "s3://models/org/llama",
            {
                "AWS_ENDPOINT_URL": ceph.url,
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            },
        )


def run(
    consumer: Consumer,
    check: str,
    model: str,
    reference: Path,
    *,
    ranks: int = 1,
    environment: dict[str, str] | None = None,
    **config: Any,
) -> None:
    package = str(Path(runai_model_streamer.__file__).parents[1])
    settings = {
        "package": consumer.package,
        "version": consumer.version,
        "model": model,
        "reference": str(reference),
        **config,
    }
    command = [str(consumer.python)]
    if ranks > 1:
        command += [
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={ranks}",
            f"--master-port={free_port()}",
        ]
    command += [str(DRIVER), check, json.dumps(settings)]
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RUNAI_STREAMER_"))},
        "PYTHONPATH": package,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    result = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    passed = result.stdout.count("passed")
    assert result.returncode == 0 and passed == ranks, (
        f"{consumer.name} {check}\n{result.stdout[-2000:]}\n{result.stderr[-8000:]}"
    )


# Several checks in one process: importing an engine takes longer than all of them.
def test_local_files_load(consumer: Consumer, directory: Path) -> None:
    checks = "iterator,abandoned,forked,loader"
    # SGLang 0.5.10 imports all of diffusers on the way to its loader of diffusion models.
    if consumer.name != "sglang-0.5.10":
        checks = "iterator,abandoned,forked,otherwise,loader"
    run(consumer, checks, str(directory), directory, extra_config=SETTINGS)


def test_objects_load(consumer: Consumer, directory: Path, bucket: Any, tmp_path: Path) -> None:
    uri, environment = bucket
    run(
        consumer,
        "metadata,iterator,forked,loader",
        uri,
        directory,
        environment=environment,
        directory=str(tmp_path),
        extra_config=SETTINGS,
    )


def test_two_ranks_share_a_load(consumer: Consumer, directory: Path) -> None:
    extra = {"distributed": True}
    run(consumer, "distributed", str(directory), directory, ranks=2, extra_config=extra)


def test_vllm_builds_the_same_model(directory: Path) -> None:
    consumer = CONSUMERS["vllm-0.33.0"]
    prepare(consumer)
    run(consumer, "model", str(directory), directory, port=free_port())


def test_modelexpress_on_vllm(directory: Path, bucket: Any) -> None:
    consumer = CONSUMERS["vllm-0.33.0"]
    prepare(consumer)
    run(consumer, "modelexpress", str(directory), directory)
    uri, environment = bucket
    run(consumer, "modelexpress", uri, directory, environment=environment)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))

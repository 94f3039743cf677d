"""docs/environment.md says what the code reads, and everything that it reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runai_model_streamer import native

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(
    r'"((?:RUNAI_STREAMER|AWS|AZURE|GOOGLE|GCE|CLOUD_STORAGE|STORAGE_EMULATOR|CLOUDSDK|HF|SSL)'
    r'_[A-Z0-9_]+|(?:HTTPS?|NO|ALL)_PROXY|(?:https?|no|all)_proxy|HUGGING_FACE_[A-Z_]+)"'
)
# Set by others for their own purposes, or keys of files, not of the environment.
NOT_SETTINGS = {"RUNAI_STREAMER_PROCESS_GROUP_SIZE"}


def known() -> set[str]:
    return {row["name"] for row in native.settings_table()}


def test_the_page_is_what_the_table_says() -> None:
    pytest.importorskip("scripts.environment_doc")
    from scripts.environment_doc import PAGE, page

    assert PAGE.read_text() == page(), "run `make docs`"


def test_every_variable_in_the_code_is_in_the_table() -> None:
    read: dict[str, str] = {}
    files = [*ROOT.glob("cpp/src/**/*.cc"), *ROOT.glob("cpp/src/**/*.h")]
    files += ROOT.glob("python/**/*.py")
    for file in files:
        if file.name == "settings_table.cc":
            continue
        for name in NAME.findall(file.read_text()):
            read.setdefault(name, str(file.relative_to(ROOT)))
    assert len(read) > 10
    missing = {name: file for name, file in read.items() if name not in known() | NOT_SETTINGS}
    assert not missing


CONTRACT = """
MEMORY_LIMIT CUDA_ALIGNMENT LOG_LEVEL LOG_TO_STDERR LOG_FILE S3_UNSIGNED NO_BOTO3_SESSION
S3_USE_VIRTUAL_ADDRESSING GCS_CREDENTIAL_FILE GCS_USE_ANONYMOUS_CREDENTIALS CONCURRENCY
CHUNK_BYTESIZE FS_STRATEGY RING_BUFFERS MAX_PADS_PER_BUFFER FS_CHUNK_BYTESIZE FS_QUEUE_DEPTH
DIRECT_BLOCK FS_MAX_ENGINES S3_ENDPOINT S3_TRACE
"""


def test_the_contract_names_are_known() -> None:
    names = CONTRACT.split()
    missing = {f"RUNAI_STREAMER_{name}" for name in names} - known()
    assert not missing

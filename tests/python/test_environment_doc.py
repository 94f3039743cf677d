"""docs/reference/environment.md lists every variable that the code reads."""

from __future__ import annotations

import re
from pathlib import Path

from runai_model_streamer import _native_api as native
from scripts.environment_doc import PAGE, page

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(
    r'"((?:RUNAI_STREAMER|AWS|AZURE|GOOGLE|GCE|CLOUD_STORAGE|STORAGE_EMULATOR|CLOUDSDK|HF|SSL)'
    r'_[A-Z0-9_]+|(?:HTTPS?|NO|ALL)_PROXY|(?:https?|no|all)_proxy|HUGGING_FACE_[A-Z_]+)"'
)


def known() -> set[str]:
    return {row["name"] for row in native.settings_table()}


def test_the_page_is_generated_from_the_table() -> None:
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
    missing = {name: file for name, file in read.items() if name not in known()}
    assert not missing


SIZE = re.compile(r"\b\d+ [MG]iB\b")


def test_no_other_page_repeats_a_default_size() -> None:
    """A paragraph or a row of a table that names a setting links to the page that is generated."""
    sizes = {
        row["name"]: {*SIZE.findall(row["default"]), *SIZE.findall(row["summary"])}
        for row in native.settings_table()
    }
    assert len(list(filter(None, sizes.values()))) >= 5
    pages = [*ROOT.glob("docs/guides/*.md"), *ROOT.glob("docs/*.md")]
    pages.append(ROOT / "docs/internals/architecture.md")
    repeated = [
        (page.name, name, size)
        for page in pages
        for part in re.split(r"\n\n|\n(?=\||- )", page.read_text())
        for name, known in sizes.items()
        if re.search(rf"`{name}\b", part)
        for size in known.intersection(SIZE.findall(part))
    ]
    assert not repeated


CONTRACT = """
MEMORY_LIMIT RING_BUFFERS MAX_PADS_PER_BUFFER DIST DIST_GLOBAL DIST_TIMEOUT DIST_BUFFER_MIN_BYTESIZE
CUDA_ALIGNMENT PARTITION_POLICY PROCESS_GROUP_SIZE LOG_LEVEL LOG_TO_STDERR LOG_FILE S3_UNSIGNED
NO_BOTO3_SESSION S3_USE_VIRTUAL_ADDRESSING GCS_CREDENTIAL_FILE GCS_USE_ANONYMOUS_CREDENTIALS
CONCURRENCY OBJ_CONCURRENCY CHUNK_BYTESIZE FS_CHUNK_BYTESIZE FS_QUEUE_DEPTH FS_STRATEGY DIRECT_BLOCK
FS_MAX_ENGINES FS_REGISTER_BUFFERS FS_NO_REGISTER_BUFFERS PINNED_MEMORY_MODE S3_ENDPOINT S3_TIMEOUT
S3_MAX_INFLIGHT_MIB INFLIGHT_WINDOW_MARGIN OVERRIDE_ENDPOINT_URL S3_TRACE S3_MAX_CONNECTIONS
S3_TARGET_GBPS S3_REQUEST_TIMEOUT_MS S3_LOW_SPEED_LIMIT GCS_USE_GRPC
"""
SDK = """
AWS_ENDPOINT_URL AWS_CA_BUNDLE AZURE_STORAGE_CONNECTION_STRING AZURE_STORAGE_ACCOUNT_NAME
AZURE_STORAGE_ACCOUNT_KEY AZURE_STORAGE_SAS_TOKEN AZURE_STORAGE_ENDPOINT_SUFFIX
CLOUD_STORAGE_EMULATOR_ENDPOINT
"""


def test_the_contract_names_are_known() -> None:
    names = {f"RUNAI_STREAMER_{name}" for name in CONTRACT.split()}
    missing = (names | set(SDK.split())) - known()
    assert not missing

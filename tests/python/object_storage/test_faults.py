"""Every fault above every operation of every protocol: the right bytes, or the right error."""

from __future__ import annotations

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, StreamerError, list_safetensors, pull_files
from tests.python.object_storage.faults import FAULTS, OPERATIONS
from tests.support.models import check_same, make_model, save

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

SHARED_FOLDER = True
MODEL = make_model(20)
BYTES = save(MODEL)
NAME = "model.safetensors"
CASES = [
    pytest.param(fault, operation, id=f"{operation}: {fault.name}")
    for operation in OPERATIONS
    for fault in FAULTS
    if operation in fault.operations
]


def stream(uri, tmp_path):
    found: dict[str, torch.Tensor] = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri}/{NAME}"])
        found = dict(streamer.get_tensors())
        check_same(MODEL, found)


def header(uri, tmp_path):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri}/{NAME}"])
        names = [tensor.name for tensor in streamer.files_to_tensors_metadata[0]]
    assert sorted(names) == sorted(MODEL)


def listing(uri, tmp_path):
    assert list_safetensors(uri) == [f"{uri}/{NAME}"]


def pull(uri, tmp_path):
    pull_files(uri, str(tmp_path / "pulled"))
    assert (tmp_path / "pulled" / NAME).read_bytes() == BYTES


RUN = {"stream": stream, "header": header, "list": listing, "pull": pull}


@pytest.mark.parametrize(("fault", "operation"), CASES)
def test_a_fault_ends_in_the_right_bytes_or_the_right_error(
    storage, use, tmp_path, fault, operation
):
    storage.put(NAME, BYTES)
    use(storage.proxied)
    use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20), "RUNAI_STREAMER_MAX_ATTEMPTS": "3"})
    use(fault.settings)
    if fault.anonymous:
        use(storage.anonymous)
    match = {
        "stream": storage.read_match + ".* bytes=[1-9]",
        "header": storage.read_match + ".* bytes=0",
        "list": storage.list_match,
        "pull": storage.read_match,
    }[operation]
    storage.nginx.fault(match=match, **fault.details)
    if fault.code is None:
        RUN[operation](storage.uri, tmp_path)
    else:
        with pytest.raises(StreamerError) as caught:
            RUN[operation](storage.uri, tmp_path)
        error = caught.value
        assert error.code == fault.code, error
        assert storage.uri in error.path
        for secret in storage.secrets:
            assert secret not in str(error)
        if operation == "pull":
            assert not [f for f in (tmp_path / "pulled").rglob("*") if f.is_file()]
    hits = storage.nginx.fault_hits()
    assert hits > 0, "the fault was never tried"
    if fault.at_once and operation != "stream":  # there, several connections may meet it
        if operation == "list":
            told = fault.details["mode"] == "status"
            assert hits == (storage.list_refusals if told else 1)
        else:
            refused = fault.details.get("status") in (403, 404)
            assert hits == (storage.refusals if refused else 1)

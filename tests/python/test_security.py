"""What SECURITY.md says has tests: each row of its tables, and each limit of hostile paths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()

# The first cell of each row: the tests that would fail without it. A test of Python is a function,
# one of C++ a suite and a name.
OBJECTS = "tests/python/object_storage"
CLAIMS: dict[str, list[str]] = {
    "cannot execute code": ["tests/python/local/test_odd_files.py::test_the_error_names_what"],
    "cannot read or write memory outside of its tensors": [
        "tests/cpp/safetensors/header_test.cc::Header, ",
        "tests/fuzz/fuzz_header.cc::LLVMFuzzerTestOneInput",
    ],
    "cannot change during a load without notice": [
        "tests/python/local/test_faults.py::test_replaced_in_place_is_an_error",
        f"{OBJECTS}/test_transport_canned.py::test_another_etag_is_a_change",
        f"{OBJECTS}/test_web.py::test_a_file_replaced_during_the_load_is_an_error",
        f"{OBJECTS}/test_gcs.py::test_an_object_replaced_during_the_load_is_an_error",
    ],
    "can contain wrong weights": [
        f"{OBJECTS}/test_checksums.py::test_bytes_are_compared",
        f"{OBJECTS}/test_gcs.py::test_a_damaged_object_fails_its_checksum",
    ],
    "can request much memory": ["tests/cpp/safetensors/header_test.cc::Header, TheLongest"],
    "cannot impersonate an https server": [
        f"{OBJECTS}/test_s3_tls.py::test_a_bad_certificate_fails_each_operation",
        f"{OBJECTS}/test_s3_tls.py::test_an_unknown_authority_fails_each_operation",
        f"{OBJECTS}/test_s3_tls.py::test_tls_1_2_is_the_least",
    ],
    "cannot receive credentials of another origin": [
        f"{OBJECTS}/test_secret_hosts.py::test_a_host_that_looks_like_the_own_one",
        f"{OBJECTS}/test_secret_hosts.py::test_hosts_of_azure_get_only_their_secrets",
        f"{OBJECTS}/test_faults.py::test_a_redirect_to_another_server_carries_no_secret",
    ],
    "cannot read tokens from plain http": [
        f"{OBJECTS}/test_secret_hosts.py::test_secrets_do_not_go_over_plain_http",
        f"{OBJECTS}/test_secret_hosts.py::test_signed_requests_may_go_over_plain_http",
    ],
    "cannot downgrade a connection": [f"{OBJECTS}/test_web.py::test_redirects_that_lead_nowhere"],
    "cannot write outside of the target directory": [
        f"{OBJECTS}/test_pull.py::test_names_that_lead_out_are_refused",
        f"{OBJECTS}/test_pull.py::test_links_that_lead_out_are_refused",
    ],
    "cannot make the library delete files": [
        f"{OBJECTS}/test_model_directory.py::test_destinations_that_nobody_means",
        f"{OBJECTS}/test_model_directory.py::test_destinations_that_belong_to_others_are_refused",
        f"{OBJECTS}/test_model_directory.py::test_files_of_others_stay",
    ],
    "cannot mix two versions of one object": [
        f"{OBJECTS}/test_transport_canned.py::test_ranges_are_pinned",
        f"{OBJECTS}/faults.py::replaced since its header",
    ],
    "can replace objects between loads": [
        f"{OBJECTS}/test_snapshots.py::test_a_set_that_changes_between_its_files_is_told"
    ],
    "can fail at one of several addresses": [
        f"{OBJECTS}/test_connections.py::test_one_where_nobody_listens_is_passed_over"
    ],
    "can delay a load": [
        f"{OBJECTS}/faults.py::stalls once",
        f"{OBJECTS}/test_transport_canned.py::test_the_deadline_ends_the_attempts",
    ],
    "cannot use memory without a limit": [
        f"{OBJECTS}/test_transport_canned.py::test_headers_without_end",
        f"{OBJECTS}/faults.py::403 without end",
        f"{OBJECTS}/test_limits.py::test_pages_that_are_too_long",
        f"{OBJECTS}/test_limits.py::test_tokens_that_are_too_long",
        "tests/cpp/http/documents_test.cc::Json, RefusesTooManyValues",
        "tests/cpp/http/documents_test.cc::Xml, RefusesTooManyElements",
    ],
    "cannot extend a list without end": [
        f"{OBJECTS}/test_faults.py::test_a_list_without_end_is_an_error",
        f"{OBJECTS}/test_limits.py::test_tokens_that_come_again",
        f"{OBJECTS}/test_limits.py::test_an_interrupt_ends_a_list",
    ],
    "cannot pass a compressed response off as the object": [f"{OBJECTS}/faults.py::compressed"],
    "cannot pass a page of HTML off as a list or an object": [f"{OBJECTS}/faults.py::a login page"],
    "can choose a part of the text of an error": [
        f"{OBJECTS}/test_limits.py::test_texts_of_servers_stay_on_their_line"
    ],
    "can send wrong bytes over plain http": [],  # nothing is promised
    "can ask for a client certificate": [
        f"{OBJECTS}/test_client_certificates.py::test_the_error_names_the_cause"
    ],
}


def claims() -> list[str]:
    rows = re.findall(r"^\| (.+?) \| .+ \|$", TEXT, re.MULTILINE)
    return [row for row in rows if row.strip()]


def test_every_row_has_its_tests() -> None:
    assert claims() == list(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_tests_of_a_row_exist(claim: str) -> None:
    for test in CLAIMS[claim]:
        file, _, name = test.partition("::")
        assert name in (ROOT / file).read_text(), test

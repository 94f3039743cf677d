"""Random headers: what safetensors accepts is accepted, what it refuses is refused, with the same
tensors, and by nothing but the documented errors; only names that repeat are refused here alone.
FUZZ_SECONDS says for how long."""

from __future__ import annotations

import json
import os
import struct
import time
from typing import Any

import pytest
import safetensors
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from runai_model_streamer import StreamerError
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._native_api import safetensors_dtype_bits as BITS
from runai_model_streamer._native_api import safetensors_header

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
ODD_NUMBERS = [-1, 0, 1, 2, 7, 8, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30]
ODD_TOKENS = [
    "-0", "0.0", "1.0", "1e3", "-1", "true", "null", '"1"', "[]", "{}", "NaN", "Infinity", "01",
    "+1", "0x1", "", "18446744073709551615", "18446744073709551616", "[1]",
    '"\\ud800"', '"\\u0041"',
]  # fmt: skip
names = st.one_of(
    st.sampled_from(["a", "b", "weight", "__metadata__", "", "a\u0000", "\u00e9", "\U0001f600"]),
    st.text(max_size=6),
)


@st.composite
def sound_header(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header without contradictions, and the bytes of its data."""
    header: dict[str, Any] = {}
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4)))
    offset = 0
    for name in draw(st.lists(names, unique=True, max_size=5)):
        if name == "__metadata__":
            continue
        dtype = draw(st.sampled_from(list(BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        bits = BITS[dtype]
        for number in shape:
            bits *= number
        if bits % 8:
            shape = [*shape, 8]
            bits *= 8
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [offset, offset + bits // 8],
        }
        offset += bits // 8
    return header, offset


def break_value(draw: st.DrawFn, header: dict[str, Any]) -> None:
    tensors = [info for info in header.values() if isinstance(info, dict) and "shape" in info]
    if not tensors:
        return
    info = draw(st.sampled_from(tensors))
    what = draw(st.sampled_from(["dtype", "shape", "data_offsets", "drop", "add"]))
    if what == "drop":
        del info[draw(st.sampled_from(sorted(info)))]
    elif what == "add":
        info[draw(st.text(max_size=3))] = draw(st.sampled_from([None, 1, "x", [1], {}]))
    elif what == "dtype":
        info["dtype"] = draw(st.sampled_from([*BITS, "F31", "f32", "", None, 3]))
    else:
        values = info.get(what)
        if isinstance(values, list) and values and draw(st.booleans()):
            values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from(ODD_NUMBERS))
        else:
            info[what] = draw(st.lists(st.sampled_from(ODD_NUMBERS), max_size=3))


def break_text(draw: st.DrawFn, text: bytes) -> bytes:
    at = draw(st.integers(0, len(text)))
    to = min(len(text), at + draw(st.integers(0, 4)))
    token = draw(
        st.one_of(
            st.sampled_from(ODD_TOKENS).map(str.encode),
            st.binary(max_size=3),
            st.sampled_from(
                [b" ", b"\n", b"\t", b"\xef\xbb\xbf", b"\xff", b"\x00", b",", b"}", b"{"]
            ),
        )
    )
    return text[:at] + token + text[to:]


def repeat_a_name(draw: st.DrawFn, text: bytes) -> bytes:
    """The first member again, behind itself."""
    try:
        header = json.loads(text)
    except ValueError:
        return text
    if not isinstance(header, dict) or not header:
        return text
    name = draw(st.sampled_from(sorted(header)))
    member = json.dumps({name: header[name]})[1:-1].encode()
    return b"{" + member + b"," + text.lstrip()[1:]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    header, data = draw(sound_header())
    for _ in range(draw(st.integers(0, 2))):
        break_value(draw, header)
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        text = break_text(draw, text)
    if draw(st.integers(0, 9)) == 0:
        text = repeat_a_name(draw, text)
    text += b" " * draw(st.integers(0, 8))
    length = max(0, len(text) + draw(st.sampled_from([0] * 12 + [-1, 1, -8, 1 << 40])))
    data = max(0, data + draw(st.sampled_from([0] * 12 + [-1, 1, 8])))
    return struct.pack("<Q", length) + text + bytes(data)


def by_safetensors(blob: bytes) -> dict[str, tuple[str, list[int], int]] | None:
    """Name -> dtype, shape, bytes; None if it is refused."""
    try:
        found = safetensors.deserialize(blob)
    except Exception:
        return None
    return {name: (i["dtype"], list(i["shape"]), len(i["data"])) for name, i in found}


def by_ours(blob: bytes) -> dict[str, tuple[str, list[int], int]] | None:
    try:
        header = safetensors_header(blob, "file", len(blob), SafetensorMetadata)
    except StreamerError as error:
        # Stricter on purpose: which of two members of one name counts is anybody's guess.
        assume("duplicate name" not in str(error))
        return None
    return {t.name: (t.dtype, list(t.shape), t.get_bytesize()) for t in header.tensors}


@settings(
    max_examples=400,
    derandomize=False,  # others in each round, in CI too
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(files())
def compare(blob: bytes) -> None:
    assert by_ours(blob) == by_safetensors(blob), blob


@pytest.mark.fuzz
@pytest.mark.timeout(SECONDS + 300)
def test_the_verdict_is_that_of_safetensors() -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        compare()


@settings(max_examples=50, database=None, suppress_health_check=list(HealthCheck))
@given(sound_header())
def test_sound_headers_are_accepted(made: tuple[dict[str, Any], int]) -> None:
    header, data = made
    text = json.dumps(header).encode()
    blob = struct.pack("<Q", len(text)) + text + bytes(data)
    assert by_safetensors(blob) is not None
    assert by_ours(blob) == by_safetensors(blob)

"""A server that is restarted in the middle of each operation of each protocol: its connections end,
new ones are refused for a while, and then it is there again, with the same object or another one.
"""

from __future__ import annotations

import contextlib
import re
import threading

import pytest

from runai_model_streamer import SafetensorsStreamer, StreamerError, list_safetensors, pull_files
from tests.support.models import make_model, same, save
from tests.support.servers.gate import Gate

pytestmark = pytest.mark.servers

NAME = "model.safetensors"
# nginx tells two files of one second apart by their sizes only.
MODEL, OTHER = make_model(12), make_model(13, seed=9)
BYTES, OTHER_BYTES = save(MODEL), save(OTHER)
OUTAGE = 0.4  # seconds


class Restart:
    """Gates before all proxies of a storage. They are shut at the first request that matches
    `pattern`, which is one of faults.lua, and opened again after `meanwhile()`."""

    def __init__(self, storage, pattern, meanwhile) -> None:
        self.pattern = re.compile(re.sub("%(.)", r"\\\1", pattern).replace(r"\x", "[0-9a-f]"))
        self.meanwhile = meanwhile
        self.happened = threading.Event()
        self._lock = threading.Lock()
        ports = storage.nginx.proxy_ports.values()
        self.gates = {port: Gate(port, watch=self._look) for port in ports}

    def through(self, text: str) -> str:
        """An address of a proxy, as one of its gate."""
        for port, gate in self.gates.items():
            text = text.replace(f":{port}", f":{gate.port}")
        return text

    def _look(self, data: bytes) -> None:
        head = data.decode("latin-1")
        span = re.search(r"(?i)\r\nrange: *(\S*)", head)
        asked = f"{head.rpartition(' HTTP/')[0].splitlines()[0]} {span[1] if span else ''}"
        with self._lock:
            if self.happened.is_set() or not self.pattern.search(asked):
                return
            for gate in self.gates.values():
                gate.shut()
                gate.cut()
            self.meanwhile()
            self.end = threading.Timer(OUTAGE, self._open)
            self.end.start()
            self.happened.set()
        raise ConnectionError("the request is lost")

    def _open(self) -> None:
        for gate in self.gates.values():
            gate.open()


def equal(one, other):
    if not isinstance(one, dict):
        return one == other
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def stream(uri, tmp_path):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri}/{NAME}"])
        return dict(streamer.get_tensors())


def header(uri, tmp_path):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri}/{NAME}"])
        return sorted(tensor.name for tensor in streamer.files_to_tensors_metadata[0])


def listing(uri, tmp_path):
    return [path.rpartition("/")[2] for path in list_safetensors(uri)]


def pull(uri, tmp_path):
    pull_files(uri, str(tmp_path / "pulled"))
    return (tmp_path / "pulled" / NAME).read_bytes()


# What is done, the requests in whose midst the restart comes, and what the operation returns of
# each version.
OPERATIONS = {
    "stream": (stream, lambda storage: storage.read_match + ".* bytes=[1-9]", (MODEL, OTHER)),
    "header": (header, lambda storage: storage.read_match + ".* bytes=0", (sorted(MODEL),) * 2),
    "list": (listing, lambda storage: storage.list_match, ([NAME],) * 2),
    "pull": (pull, lambda storage: storage.read_match, (BYTES, OTHER_BYTES)),
}


CASES = [(operation, False) for operation in OPERATIONS] + [("stream", True), ("pull", True)]


@pytest.mark.parametrize(("operation", "replaced"), CASES)
def test_a_restart_is_survived_or_its_versions_are_reported(
    storage, use, tmp_path, request, monkeypatch, operation, replaced
):
    """All of it is of one version, or the error says that there are two."""
    storage.put(NAME, BYTES)
    run, match, versions = OPERATIONS[operation]
    replace = (lambda: storage.put(NAME, OTHER_BYTES)) if replaced else (lambda: None)
    restart = Restart(storage, match(storage), replace)
    use({name: restart.through(value) for name, value in storage.proxied.items()})
    use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20)})
    if storage.name == "hf":  # it tells its readers where the store is
        hub = request.getfixturevalue("shared_hub")
        monkeypatch.setattr(hub, "store_url", restart.through(hub.store_url))
    found = None
    with contextlib.ExitStack() as gates:
        for gate in restart.gates.values():
            gates.enter_context(gate)
        try:
            found = run(restart.through(storage.uri), tmp_path)
        except StreamerError as error:
            assert replaced, error
            assert error.code == "changed", error
        assert restart.happened.wait(240)
        restart.end.join()
    if found is not None:
        assert any(equal(found, version) for version in versions[: 1 + replaced])

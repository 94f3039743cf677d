"""The phases of a load, and its spans and metrics of OpenTelemetry."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from runai_model_streamer import SafetensorsStreamer, StreamerError, _telemetry
from tests.support.models import make_model, save
from tests.support.processes import python

metrics = pytest.importorskip("opentelemetry.sdk.metrics")
trace = pytest.importorskip("opentelemetry.sdk.trace")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.safetensors").write_bytes(save(make_model(3, 3)))
    return tmp_path / "a.safetensors"


@pytest.fixture
def spans(monkeypatch):
    """The spans that end from now on."""
    from opentelemetry import trace as api
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(api, "get_tracer", provider.get_tracer)
    return exporter.get_finished_spans


@pytest.fixture
def values(monkeypatch):
    """values() maps the names of metrics to the sum of what was recorded."""
    from opentelemetry import metrics as api
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = metrics.MeterProvider([reader])
    monkeypatch.setattr(api, "get_meter", provider.get_meter)
    monkeypatch.setattr(_telemetry, "_instruments", None)

    def read() -> dict[str, float]:
        found = {}
        for resource in reader.get_metrics_data().resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = sum(
                        getattr(point, "value", getattr(point, "sum", 0))
                        for point in metric.data.data_points
                    )
        return found

    return read


@pytest.mark.parametrize("verify", [None, "auto"])
def test_phases_add_up_to_the_load(path: Path, tmp_path: Path, verify) -> None:
    if verify:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "SHA256SUMS").write_text(f"{digest}  {path.name}\n")
    with SafetensorsStreamer() as streamer:
        before = time.monotonic()
        streamer.stream_files([path], verify=verify)
        for _ in streamer.get_tensors():
            time.sleep(0.01)
        after = time.monotonic()
        phases = streamer.stats().phases
    assert set(phases) == {"open", "read", "consume"} | ({"verify"} if verify else set())
    assert min(phases.values()) >= 0
    assert phases["consume"] >= 0.03  # the sleeps
    assert sum(phases.values()) <= after - before
    # Nothing but the two calls of this test is left out.
    assert streamer.stats().phases == phases


@pytest.fixture
def phases(path: Path) -> dict[str, float]:
    """Of a load that has ended."""
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        list(streamer.get_tensors())
        return streamer.stats().phases


def test_a_load_is_a_span_with_two_children(spans, phases) -> None:
    found = {span.name: span for span in spans()}
    assert set(found) == {"model_streamer.load", "model_streamer.open", "model_streamer.stream"}
    load = found["model_streamer.load"]
    children = [found["model_streamer.open"], found["model_streamer.stream"]]
    assert all(child.parent.span_id == load.context.span_id for child in children)
    assert children[0].start_time == load.start_time
    assert children[0].end_time == children[1].start_time
    assert children[1].end_time == load.end_time
    assert load.attributes["model_streamer.bytes"] == 3 << 20
    assert load.attributes["model_streamer.source"] == "file"
    assert load.end_time - load.start_time == pytest.approx(sum(phases.values()) * 1e9, rel=1e-6)


def test_a_load_adds_to_the_metrics(values, phases) -> None:
    found = values()
    assert found["model_streamer.bytes"] == 3 << 20
    assert found["model_streamer.retries"] == 0
    assert found["model_streamer.load.duration"] == pytest.approx(sum(phases.values()))


def test_a_load_that_fails_is_a_failed_span(path: Path, spans) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], verify={path.name: "0" * 64})
        with pytest.raises(StreamerError):
            list(streamer.get_tensors())
    (load,) = [span for span in spans() if span.name == "model_streamer.load"]
    assert not load.status.is_ok
    assert load.events[0].attributes["exception.type"].endswith("StreamerDigestError")


def test_what_goes_wrong_there_fails_no_load(path: Path, monkeypatch) -> None:
    from opentelemetry import trace as api

    def broken(name: str) -> None:
        raise RuntimeError("no collector")

    monkeypatch.setattr(api, "get_tracer", broken)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        assert len(list(streamer.get_tensors())) == 3


def test_nothing_is_imported_for_others(path: Path) -> None:
    code = (
        "import sys; from runai_model_streamer import load_file\n"
        "load_file(sys.argv[1]); print('opentelemetry' in sys.modules)"
    )
    assert python(code, path) == "False"

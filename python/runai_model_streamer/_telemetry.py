"""Spans and metrics of loads, for hosts that use OpenTelemetry.

Nothing is imported for other hosts: a host that collects spans has imported its package. An error
of OpenTelemetry does not fail a load.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from runai_model_streamer._logging import logger
from runai_model_streamer._stats import StreamStats

_NAME = "runai_model_streamer"
_instruments: tuple[Any, Any, Any] | None = None


def report(stats: StreamStats, error: BaseException | None) -> None:
    """Reports a load that has just ended: a span `model_streamer.load`, whose children `open` and
    `stream` add up to it, the counters `model_streamer.bytes` and `model_streamer.retries`, and the
    histogram `model_streamer.load.duration`."""
    if "opentelemetry" not in sys.modules:
        return
    try:
        _report(stats, error)
    except Exception as failure:
        logger.debug("OpenTelemetry did not take a load: %s", failure)


def _report(stats: StreamStats, error: BaseException | None) -> None:
    from opentelemetry import metrics, trace

    ended = time.time_ns()
    seconds = sum(stats.phases.values())
    began = ended - int(seconds * 1e9)
    opened = began + int(stats.phases.get("open", 0.0) * 1e9)
    source = ",".join(stats.bytes_by_source) or "none"
    labels = {"source": source, "device": stats.device}
    attributes: dict[str, Any] = {
        **{f"model_streamer.{name}": value for name, value in labels.items()},
        "model_streamer.bytes": stats.bytes,
        "model_streamer.requests": stats.requests,
        "model_streamer.retries": stats.retries,
        "model_streamer.bound": stats.bound,
        **{f"model_streamer.{name}_seconds": value for name, value in stats.phases.items()},
    }
    tracer = trace.get_tracer(_NAME)
    span = tracer.start_span("model_streamer.load", start_time=began, attributes=attributes)
    context = trace.set_span_in_context(span)
    for name, begin, end in (("open", began, opened), ("stream", opened, ended)):
        child = tracer.start_span(f"model_streamer.{name}", context=context, start_time=begin)
        child.end(end)
    if error is not None:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, type(error).__name__)
    span.end(ended)

    global _instruments
    if _instruments is None:
        meter = metrics.get_meter(_NAME)
        _instruments = (
            meter.create_counter("model_streamer.bytes", "By", "Bytes that loads delivered"),
            meter.create_counter("model_streamer.retries", "1", "Requests that were repeated"),
            meter.create_histogram("model_streamer.load.duration", "s", "Time of a load"),
        )
    delivered, retries, duration = _instruments
    delivered.add(stats.bytes, labels)
    retries.add(stats.retries, labels)
    duration.record(seconds, {**labels, "failed": error is not None})

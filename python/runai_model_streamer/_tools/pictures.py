"""The picture of a measurement."""

from __future__ import annotations

import os

from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerImportError,
    shown_path,
)
from runai_model_streamer._tools.rates import Bench


def check_plotting(file: str) -> None:
    """Raises StreamerImportError if pictures can't be made, RunaiStreamerInvalidInputException if
    the name of `file` has the end of no format."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise StreamerImportError(
            "matplotlib is not installed: pictures need it. Install it: pip install matplotlib",
            code="package",
        ) from None
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if os.path.splitext(file)[1][1:].lower() not in known:
        raise RunaiStreamerInvalidInputException(
            f"{file}: the name of a picture ends with its format: .{', .'.join(known)}", path=file
        )


def plot(bench: Bench, file: str) -> None:
    """Writes a picture of `bench` to `file`, in the format that its name ends with."""
    check_plotting(file)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (over_time, ways, reads) = pyplot.subplots(1, 3, figsize=(14, 4))
    times = [0.0]
    rates = [0.0]
    for (begin, before), (end, after) in zip(bench.samples, bench.samples[1:], strict=False):
        if end > begin:
            times.append(end)
            rates.append((after - before) / (end - begin) / 1e9)
    over_time.plot(times, rates)
    over_time.set(title="Load", xlabel="seconds", ylabel="GB/s")
    over_time.set_ylim(bottom=0)
    named = [bench.load, *bench.others]
    ways.barh([one.name for one in named], [one.rate / 1e9 for one in named])
    ways.invert_yaxis()
    ways.set(title="Ways of reading", xlabel="GB/s")
    histogram = bench.histogram()
    reads.bar([name for name, _ in histogram], [count for _, count in histogram])
    reads.set(title="Reads by their time", xlabel="milliseconds, at most", ylabel="reads")
    reads.tick_params(axis="x", rotation=60)
    figure.suptitle(f"{shown_path(bench.path)} to {bench.device}")
    figure.tight_layout()
    try:
        figure.savefig(file)
    finally:
        pyplot.close(figure)

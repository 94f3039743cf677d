"""The chart of the README, from the results of local files: `python -m benchmarks.front`."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
CHART = RESULTS / "front.svg"

COLOURS = {
    "Model Streamer": "#2563eb",
    "safetensors": "#94a3b8",
    "original": "#94a3b8",
    "fastsafetensors": "#94a3b8",
}
# The claim of the chart, the row of the results that shows it, and the label of each loader there.
TITLE = "A cached 2.9 GB checkpoint into the parameters of a model"
RESULT, ROW = "local", "cached_into"
LABELS = {
    "Model Streamer": "ours",
    "safetensors": "safetensors copy_",
    "original": "original copy_",
    "fastsafetensors": "fastsafetensors copy_",
}

WIDTH, LEFT, BAR, GAP = 720, 150, 18, 6


def rates() -> dict[str, float]:
    """GB/s of each loader."""
    report: dict[str, Any] = json.loads((RESULTS / f"{RESULT}.json").read_text())
    loaders = report["rows"][ROW]["loaders"]
    return {name: loaders[label]["gb_per_second"] for name, label in LABELS.items()}


def svg() -> str:
    """The chart."""
    found = rates()
    scale = (WIDTH - LEFT - 110) / max(found.values())
    lines = [f'<text x="12" y="30" font-weight="600">{escape(TITLE)}</text>']
    y = 40
    for name, rate in found.items():
        width = round(rate * scale, 1)
        middle = y + BAR - 5
        lines += [
            f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" fill="{COLOURS[name]}"/>',
            f'<text x="{LEFT + width + 6}" y="{middle}">{rate:.2f} GB/s</text>',
        ]
        y += BAR + GAP
    height = y + 6
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="#0f172a">'
    )
    background = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, background, *lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    CHART.write_text(svg())

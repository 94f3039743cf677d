"""The chart of the README, from the results of local files and S3: `python -m benchmarks.front`."""

from __future__ import annotations

import json
from collections.abc import Callable
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
# Title, results file, row, and the label of each loader in that row.
GROUPS: list[tuple[str, str, str, dict[str, Callable[[str], bool]]]] = [
    (
        "From the page cache into model parameters",
        "local",
        "cached_into",
        {
            "Model Streamer": lambda label: label == "ours",
            "safetensors": lambda label: label == "safetensors copy_",
            "original": lambda label: label == "original copy_",
            "fastsafetensors": lambda label: label == "fastsafetensors copy_",
        },
    ),
    (
        "From the disk into model parameters",
        "local",
        "cold_copy",
        {
            "Model Streamer": lambda label: label == "ours",
            "safetensors": lambda label: label == "safetensors",
            "original": lambda label: label == "original",
            "fastsafetensors": lambda label: label == "fastsafetensors",
        },
    ),
    (
        "From S3 over HTTP (original: its best concurrency)",
        "s3",
        "http",
        {
            "Model Streamer": lambda label: label == "ours",
            "original": lambda label: label.startswith("original"),
        },
    ),
]

WIDTH, LEFT, BAR, GAP = 720, 150, 18, 6


def groups() -> list[tuple[str, dict[str, float]]]:
    """(title, GB/s of each loader) of every group."""
    found = []
    for title, results, row, chosen in GROUPS:
        report: dict[str, Any] = json.loads((RESULTS / f"{results}.json").read_text())
        loaders = report["rows"][row]["loaders"]
        found.append((
            title,
            {
                name: max(data["gb_per_second"] for label, data in loaders.items() if wanted(label))
                for name, wanted in chosen.items()
            },
        ))  # fmt: skip
    return found


def svg() -> str:
    """The chart. Each group has a scale of its own, since storage differs by a factor of ten."""
    lines: list[str] = []
    y = 14
    for title, rates in groups():
        y += 16
        lines.append(f'<text x="12" y="{y}" font-weight="600">{escape(title)}</text>')
        y += 10
        scale = (WIDTH - LEFT - 110) / max(rates.values())
        for name, rate in rates.items():
            width = round(rate * scale, 1)
            middle = y + BAR - 5
            lines += [
                f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" fill="{COLOURS[name]}"/>',
                f'<text x="{LEFT + width + 6}" y="{middle}">{rate:.2f} GB/s</text>',
            ]
            y += BAR + GAP
        y += 6
    height = y + 6
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="#0f172a">'
    )
    background = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, background, *lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    CHART.write_text(svg())

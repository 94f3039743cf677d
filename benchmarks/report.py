"""Tables, JSON, plots and the page docs/benchmarks.md, from samples."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import ROOT
from benchmarks.runner import median, median_ratio

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass
class Check:
    """One comparison that a row must pass: `value` against `bound`."""

    text: str
    value: float | None
    bound: float
    at_most: bool = False
    unit: str = "x"

    @property
    def passed(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def line(self) -> str:
        relation = "at most" if self.at_most else "at least"
        value = "no value" if self.value is None else f"{self.value:.2f} {self.unit}"
        verdict = "met" if self.passed else "MISSED"
        return f"{self.text}: {value} ({relation} {self.bound:g} {self.unit}) {verdict}"


@dataclass
class Row:
    """One line of the comparison: what was done, by whom, how it came out."""

    key: str
    title: str
    bytes: int  # that each load moves
    samples: dict[str, list[dict[str, Any]]]
    checks: list[Check] = field(default_factory=list)

    def faster(self, label: str, than: str) -> float | None:
        """How many times faster `label` is: the median over rounds."""
        if label not in self.samples or than not in self.samples:
            return None
        return median_ratio(self.samples[than], self.samples[label])

    def summary(self) -> dict[str, Any]:
        loaders = {}
        for label, samples in self.samples.items():
            good = [s for s in samples if "error" not in s]
            if not good:
                loaders[label] = {"error": samples[-1]["error"] if samples else "not run"}
                continue
            seconds = median(good, "seconds") or 0.0
            cpu = median(good, "cpu_seconds")
            loaders[label] = {
                "seconds": seconds,
                "gb_per_second": self.bytes / seconds / 1e9 if seconds and self.bytes else None,
                "cpu_seconds_per_gb": cpu / (self.bytes / 1e9) if cpu and self.bytes else None,
                "anonymous_growth_mb": (median(good, "anonymous_growth") or 0.0) / 1e6,
                "first_seconds": median(good, "first_seconds"),
                "rounds": len(good),
                "failed_rounds": len(samples) - len(good),
                "ours_is_faster": self.faster("ours", label),
            }
        return {
            "title": self.title,
            "bytes": self.bytes,
            "loaders": loaders,
            "checks": [
                {"text": c.text, "value": c.value, "bound": c.bound, "at_most": c.at_most,
                 "unit": c.unit, "passed": c.passed}
                for c in self.checks
            ],
        }  # fmt: skip


def machine() -> dict[str, Any]:
    """What the figures depend on; no name of the machine."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    gpu = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        gpu = done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""
    return {
        "gpu": gpu,
        "cpus": os.cpu_count(),
        "cpu": model,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(summaries: dict[str, Any]) -> str:
    """A Markdown table, which reads well on a terminal, too."""
    head = ["work", "loader", "seconds", "GB/s", "CPU s/GB", "RSS +MB", "ours is"]
    lines = []
    for summary in summaries.values():
        title = summary["title"]
        for label, data in summary["loaders"].items():
            if "error" in data:
                lines.append([title, label, "failed", data["error"][:60], "", "", ""])
            else:
                ratio = data["ours_is_faster"]
                lines.append([
                    title,
                    label,
                    _number(data["seconds"], 3),
                    _number(data["gb_per_second"], 2),
                    _number(data["cpu_seconds_per_gb"], 2),
                    _number(data["anonymous_growth_mb"], 0),
                    "" if ratio is None or label == "ours" else f"{ratio:.2f} x",
                ])  # fmt: skip
            title = ""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

    def show(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(
        "-" * (width + 2) if i < 2 else "-" * (width + 1) + ":" for i, width in enumerate(widths)
    )
    return "\n".join([show(head), rule + "|", *(show(line) for line in lines)])


def plot(summaries: dict[str, Any], path: Path, title: str) -> None:
    """Bars of GB/s, one group per row that has them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [
        s for s in summaries.values() if any(d.get("gb_per_second") for d in s["loaders"].values())
    ]
    labels: list[str] = []
    for row in rows:
        labels += [label for label in row["loaders"] if label not in labels]
    columns = 3
    height = (len(rows) + columns - 1) // columns
    figure, axes = plt.subplots(
        height, columns, figsize=(4.2 * columns, 0.5 + 2.4 * height), squeeze=False
    )
    colours = plt.get_cmap("tab10")
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    for axis, row in zip(axes.flat, rows, strict=False):
        shown = [(k, d) for k, d in row["loaders"].items() if d.get("gb_per_second")]
        names = [label for label, _ in shown]
        values = [data["gb_per_second"] for _, data in shown]
        bars = axis.barh(names, values, color=[colours(labels.index(n) % 10) for n in names])
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(row["title"], fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}, GB/s (more is better)", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save(name: str, title: str, rows: list[Row], rounds: int, raw_samples: Path | None) -> None:
    """Writes benchmarks/results/NAME.json and NAME.png, and renews docs/benchmarks.md."""
    summaries = {row.key: row.summary() for row in rows}
    versions = {
        label: sample["version"]
        for row in rows
        for label, samples in row.samples.items()
        for sample in samples
        if sample.get("version")
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = {
        "title": title,
        "machine": machine(),
        "rounds": rounds,
        "versions": versions,
        "rows": summaries,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    if raw_samples:
        raw_samples.parent.mkdir(parents=True, exist_ok=True)
        raw_samples.write_text(json.dumps({row.key: row.samples for row in rows}, default=str))
    try:
        plot(summaries, RESULTS / f"{name}.png", title)
    except ImportError as error:  # the figures are worth more than their picture
        print(f"No plot: {error}")
    renew_page(name, report)


def _loaders(versions: dict[str, str]) -> dict[str, str]:
    """The version of each loader. Labels name variants of one ("ours, 4 ranks"), or only a variant
    of this package ("always")."""
    first: dict[str, str] = {}
    for label, version in versions.items():
        first.setdefault(re.split("[, ]", label)[0], version)
    own = first.get("ours")
    return {name: v for name, v in first.items() if name == "ours" or v != own}


def section(name: str, report: dict[str, Any]) -> str:
    """The Markdown of one set of results."""
    m = report["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in _loaders(report["versions"]).items())
    gpu = f", {m['gpu']}" if m.get("gpu") else ""
    return (
        f"{m['cpus']} CPUs ({m['cpu']}{gpu}), {m['memory_gb']} GB of memory, Linux {m['kernel']}, "
        f"Python {m['python']}; {report['rounds']} interleaved rounds, medians. {versions}.\n\n"
        f"![{report['title']}](../benchmarks/results/{name}.png)\n\n"
        f"{table(report['rows'])}\n"
    )


def renew_page(name: str, report: dict[str, Any]) -> None:
    """Replaces what stands between the markers of `name` in docs/benchmarks.md."""
    if not PAGE.exists():
        return
    begin, end = f"<!-- results: {name} -->", f"<!-- end: {name} -->"
    text = PAGE.read_text()
    if begin not in text:
        return
    inner = f"{begin}\n{section(name, report)}{end}"
    PAGE.write_text(
        re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: inner, text, flags=re.DOTALL)
    )


def show(rows: list[Row]) -> None:
    """Prints rows and their checks."""
    print()
    print(table({row.key: row.summary() for row in rows}))
    print()
    for row in rows:
        for check in row.checks:
            print(check.line())

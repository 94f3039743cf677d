"""Reading, copying and consuming overlap."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.cuda_standin import Standin


def test_a_trace_shows_the_overlap(standin: Standin, tmp_path: Path) -> None:
    """With a link as slow as the consumer, the load takes about as long as one of them."""
    report = tmp_path / "report.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.overlap", "--driver", str(standin.path)]
        + ["--json", str(report)],
        check=True,
        cwd=Path(__file__).parents[3],
    )
    result = json.loads(report.read_text())
    assert result["bytes_equal"]
    # Of the time in which copies ran, most had a read and the consumer at work beside it.
    assert result["copy_seconds"] > 0
    assert result["read_while_copying"] > 0.3, textwrap.shorten(str(result), 500)
    assert result["consume_while_copying"] > 0.3, textwrap.shorten(str(result), 500)

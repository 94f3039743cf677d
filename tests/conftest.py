"""What every test has: the marker `needs`, a directory that other users can read, and a count of
skipped tests by reason in the last lines.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.needs import obstacle

# A busy machine is slow, in tests and in what makes their examples.
hypothesis.settings.register_profile(
    "slow", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("slow")


def pytest_configure() -> None:
    # A shell ignores this signal in what it starts in the background, and processes inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for capability in mark.args:
            reason = obstacle(capability)
            if reason is not None:
                pytest.skip(reason)


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every user can read; that of tmp_path is private."""
    directory = Path(tempfile.mkdtemp(prefix="streamer-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("skipped tests by reason")
        for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])):
            terminalreporter.write_line(f"{count} skipped: {reason}")

"""Runs targets of make one after the other, all of them, and prints one summary.

    python3 -m scripts.run_steps "TITLE=TARGET" ...

Fails if any target fails. The summary has the result of each step, the skipped tests by reason, and
in its last line the counts of all tests. `MAKE` is the program to run, `make` by default.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_PYTEST = re.compile(r"=*\s*((?:\d+ [a-z]+(?:, )?)+) in \d+\.\d+s\b.*")
_PYTEST_COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)s?\b")
_CTEST = re.compile(r"\d+% tests passed, (\d+) tests failed out of (\d+)")
_CTEST_SKIPPED = re.compile(r"\s*\d+ - (\S+) \((?:Skipped|Disabled|Not Run)\)")
_GTEST = re.compile(r"\[  (PASSED|FAILED)  \] (\d+) tests?[., ]")
_REASON = re.compile(r"(\d+) skipped: (.+)")


@dataclass
class Result:
    """What the output of one step says about its tests."""

    title: str
    status: int = 0
    seconds: float = 0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    closing: list[str] = field(default_factory=list)
    """The closing lines of pytest, ctest and GoogleTest."""

    def read(self, line: str) -> None:
        line = line.rstrip("\n")
        if (found := _PYTEST.fullmatch(line)) and _PYTEST_COUNT.search(found[1]):
            for count, what in _PYTEST_COUNT.findall(found[1]):
                self.counts[what] += int(count)
            self.closing.append(line.strip("= "))
        elif found := _CTEST.match(line):
            failed, total = int(found[1]), int(found[2])
            self.counts.update(failed=failed, passed=total - failed)
            self.closing.append(line)
        elif found := _CTEST_SKIPPED.fullmatch(line):
            # ctest counts it among those that passed.
            self.counts.update(skipped=1, passed=-1)
            self.reasons[f"by {found[1]} itself"] += 1
        elif found := _GTEST.match(line):
            self.counts[found[1].lower()] += int(found[2])
            self.closing.append(line)
        elif found := _REASON.fullmatch(line):
            self.reasons[found[2]] += int(found[1])

    @property
    def failed(self) -> bool:
        return self.status != 0


def run(title: str, command: Sequence[str]) -> Result:
    """Runs a command, passes its output on, and reads it."""
    print(f"\n==> {title}", flush=True)
    result = Result(title)
    start = time.monotonic()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            result.read(line)
    result.status = process.returncode
    result.seconds = time.monotonic() - start
    ended = f"FAILED (exit status {result.status})" if result.failed else "ok"
    print(f"<== {title}: {ended}, {result.seconds:.0f} s", flush=True)
    return result


def summary(results: Iterable[Result]) -> list[str]:
    """The lines of the summary."""
    results = list(results)
    lines = []
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for result in results:
        word = "FAILED" if result.failed else "ok"
        lines.append(f"{word:<6} {result.seconds:>6.0f} s  {result.title}")
        lines += [f"{'':17}{line}" for line in result.closing]
        counts.update(result.counts)
        reasons.update(result.reasons)
        if result.failed and not result.counts["failed"] + result.counts["error"]:
            counts["error"] += 1  # of the step
    for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        lines.append(f"{count} skipped: {reason}")
    failed = [result.title for result in results if result.failed]
    if failed:
        lines.append(f"FAILED: {', '.join(failed)}")
    told = [
        f"{counts[what]} {what}{'s' if what == 'error' and counts[what] > 1 else ''}"
        for what in ("failed", "passed", "skipped", "error")
        if counts[what] > 0
    ]
    seconds = sum(result.seconds for result in results)
    minutes = f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    lines.append(f"==== {', '.join(told) or 'no tests'} in {seconds:.2f}s ({minutes}) ====")
    return lines


def main(arguments: Sequence[str]) -> int:
    make = os.environ.get("MAKE", "make")
    results = []
    for argument in arguments:
        title, _, target = argument.rpartition("=")
        results.append(run(title, [make, "--no-print-directory", target]))
    print("\n==> Summary")
    print("\n".join(summary(results)), flush=True)
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Runs targets of make one after the other, all of them, and prints one summary.

    python3 -m scripts.run_steps "TITLE=TARGET" ... [--beside "TITLE=TARGET" ...] [--then ...]

The steps behind --beside use the processors while the steps before it wait: they run at the same
time, at the lowest priority. What a step of either kind writes is shown when it ends. The steps
behind --then run when all of these have ended.

Fails if any target fails. The summary has the result of each step, the skipped tests by reason, the
least space that was free on the disk, and in its last line the counts of all tests. `MAKE` is the
program to run, `make` by default.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
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


_output = threading.Lock()


def run(title: str, command: Sequence[str], at_its_end: bool = False) -> Result:
    """Runs a command, passes its output on, at once or at its end, and reads it."""
    result = Result(title)
    kept = [f"\n==> {title}\n"]
    if not at_its_end:
        _show(kept)
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
            kept.append(line)
            if not at_its_end:
                _show(kept)
            result.read(line)
    result.status = process.returncode
    result.seconds = time.monotonic() - start
    ended = f"FAILED (exit status {result.status})" if result.failed else "ok"
    kept.append(f"<== {title}: {ended}, {result.seconds:.0f} s\n")
    _show(kept)
    return result


def _show(lines: list[str]) -> None:
    """Prints the lines, and removes them from the list."""
    with _output:
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
    lines.clear()


def summary(results: Iterable[Result], seconds: float | None = None) -> list[str]:
    """The lines of the summary of steps that took so long in all, by default the sum of theirs."""
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
    if seconds is None:
        seconds = sum(result.seconds for result in results)
    minutes = f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    lines.append(f"==== {', '.join(told) or 'no tests'} in {seconds:.2f}s ({minutes}) ====")
    return lines


class LeastFreeSpace:
    """The least space that was free for this directory and for temporary files, looked at often."""

    def __init__(self) -> None:
        self._directories = (os.getcwd(), tempfile.gettempdir())
        self._least: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> LeastFreeSpace:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def lines(self) -> list[str]:
        """One line, and one more if a step may have failed for lack of space."""
        directory = min(self._least, key=lambda name: self._least[name])
        least = self._least[directory]
        lines = [f"{least / 1e9:.1f} GB free on the disk at the least, in {directory}"]
        if least < 100_000_000:
            lines.append("The disk was full, which may be why steps failed: free some space.")
        return lines

    def _watch(self) -> None:
        while not self._ended.wait(1):
            self.look()

    def look(self) -> None:
        for directory in self._directories:
            free = shutil.disk_usage(directory).free
            self._least[directory] = min(free, self._least.get(directory, free))


def main(arguments: Sequence[str]) -> int:
    make = [os.environ.get("MAKE", "make"), "--no-print-directory"]
    start = time.monotonic()

    def run_all(steps: Sequence[str], *prefix: str, at_their_end: bool = False) -> list[Result]:
        results = []
        for step in steps:
            title, _, target = step.rpartition("=")
            results.append(run(title, [*prefix, *make, target], at_their_end))
        return results

    first, then = _split(arguments, "--then")
    first, beside = _split(first, "--beside")
    with LeastFreeSpace() as space:
        if beside:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                low = pool.submit(run_all, beside, "nice", "-n", "19", at_their_end=True)
                results = run_all(first, at_their_end=True)
                results += low.result()
        else:
            results = run_all(first)
        results += run_all(then)
    print("\n==> Summary")
    print("\n".join([*space.lines(), *summary(results, time.monotonic() - start)]), flush=True)
    return 1 if any(result.failed for result in results) else 0


def _split(arguments: Sequence[str], option: str) -> tuple[Sequence[str], Sequence[str]]:
    """What is before the option, and what is behind it."""
    at = arguments.index(option) if option in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

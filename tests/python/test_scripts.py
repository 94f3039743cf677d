"""The scripts of make and of git hooks."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import fresh_machine
from scripts.check_commit_message import problems
from scripts.run_steps import LeastFreeSpace, Result, summary
from scripts.wheels import outdated
from tests.support.processes import ROOT

LONG = "Word " * 15


@pytest.mark.parametrize(
    "message",
    [
        f"{'A' * 72}\n\n{'b' * 72}\n",
        "Do one thing\n\nhttps://example.org/" + "a" * 90 + "\n",
        "Do one thing\n\nWhy\n# Please enter the commit message " + "x " * 60,
        "Do one thing\n\nWhy\n# ------------------------ >8 ------------------------\n" + "x " * 60,
        f"Merge branch '{'b' * 80}'",
    ],
)
def test_a_message_in_form_is_accepted(message: str) -> None:
    assert problems(message) == []


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("Do one thing\n", "no body"),
        ("Do one thing\n\n# Please enter the commit message", "no body"),
        (f"{'A' * 73}\n\nWhy", "the subject has 73 columns"),
        ("Do one thing.\n\nWhy", "full stop"),
        ("do one thing\n\nWhy", "capital letter"),
        ("Do one thing\nand another\nand why", "no empty line"),
        (f"Do one thing\n\nshort\n{LONG}", "line 4 has 74 columns"),
    ],
)
def test_a_message_out_of_form_is_refused(message: str, problem: str) -> None:
    (found,) = problems(message)
    assert problem in found


def test_the_hook_fails_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "message").write_text("A" * 80)
    script = ROOT / "scripts" / "check_commit_message.py"
    command = [sys.executable, str(script), str(tmp_path / "message")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "80 columns" in done.stderr


def read(output: str, **fields: object) -> Result:
    result = Result("A step", **fields)  # type: ignore[arg-type]
    for line in output.splitlines(keepends=True):
        result.read(line)
    return result


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        ("12 passed in 0.50s\n", {"passed": 12}),
        (
            "== 2 failed, 12 passed, 3 skipped, 1 deselected, 2 errors in 70.12s (0:01:10) ==\n",
            {"failed": 2, "passed": 12, "skipped": 3, "error": 2},
        ),
        ("100% tests passed, 0 tests failed out of 540\n", {"passed": 540, "failed": 0}),
        ("99% tests passed, 1 tests failed out of 540\n", {"passed": 539, "failed": 1}),
        (
            "100% tests passed, 0 tests failed out of 3\n"
            "The following tests did not run:\n\t  2 - Pool.OnLinux (Skipped)\n",
            {"passed": 2, "failed": 0, "skipped": 1},
        ),
        ("[  PASSED  ] 84 tests.\n", {"passed": 84}),
        ("[  FAILED  ] 1 test, listed below:\n[  PASSED  ] 3 tests.\n", {"passed": 3, "failed": 1}),
        ("a line about 3 passed tests in 5.00s of the log\n", {}),
        ("2 warnings in 0.10s\n", {}),
    ],
)
def test_closing_lines_are_counted(output: str, counts: dict[str, int]) -> None:
    assert read(output).counts == counts


def test_the_summary_ends_with_the_counts_of_all_steps() -> None:
    cpp = read("100% tests passed, 0 tests failed out of 540\n", seconds=60.0)
    output = "2 skipped: needs two GPUs\n=== 7 passed, 2 skipped in 5.00s ===\n"
    lines = summary([cpp, read(output, seconds=5.25)])
    assert lines == [
        "ok         60 s  A step",
        "                 100% tests passed, 0 tests failed out of 540",
        "ok          5 s  A step",
        "                 7 passed, 2 skipped in 5.00s",
        "2 skipped: needs two GPUs",
        "==== 547 passed, 2 skipped in 65.25s (1:05) ====",
    ]


def test_equal_reasons_of_several_steps_are_added() -> None:
    one = read("2 skipped: no\n1 skipped: never\n")
    lines = summary([one, read("3 skipped: never\n")])
    assert lines[-3:-1] == ["4 skipped: never", "2 skipped: no"]


def test_a_step_that_fails_without_tests_is_an_error_of_the_summary() -> None:
    lines = summary([Result("Linters", status=2), read("1 failed in 1.00s\n", status=1)])
    assert lines[-2] == "FAILED: Linters, A step"
    assert lines[-1].startswith("==== 1 failed, 1 error in ")


def test_every_step_runs_and_one_failure_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(
        "first:\n\t@echo '3 passed in 0.10s'; exit 3\nsecond:\n\t@echo '4 passed in 0.10s'\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "scripts.run_steps", "One, = two=first", "Other=second"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MAKE": "make"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "==> One, = two" in lines
    assert lines[-2] == "FAILED: One, = two"
    assert lines[-1].startswith("==== 7 passed, 1 error in ")


def test_steps_beside_others_run_at_the_same_time_and_fail_the_run(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(
        "first:\n\t@mkfifo pipe; read line <pipe; echo $$line\n"
        "second:\n\t@until test -p pipe; do :; done; echo '4 passed in 0.10s' >pipe; exit 3\n"
        "third:\n\t@echo '5 passed in 0.10s'\n"
    )
    steps = ["One=first", "--beside", "Two=second", "--then", "Three=third"]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.run_steps", *steps],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MAKE": "make"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    one = lines.index("==> One")
    assert lines[one + 1] == "4 passed in 0.10s"
    assert lines[one + 2].startswith("<== One: ok")
    assert lines.index("==> Two") < lines.index("==> Three")
    assert lines[-2] == "FAILED: Two"
    assert lines[-1].startswith("==== 9 passed, 1 error in ")


def test_all_steps_that_pass_are_a_run_that_passes(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("first:\n\t@echo '3 passed in 0.10s'\n")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.run_steps", "One=first"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MAKE": "make"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert " GB free on the disk at the least, in " in done.stdout


@pytest.mark.parametrize("full", [False, True])
def test_a_disk_that_was_full_for_a_time_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, full: bool
) -> None:
    free = 5_000_000_000
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with LeastFreeSpace() as space:
        free = 20_000_000 if full else 2_000_000_000
        space.look()
        free = 5_000_000_000
    lines = space.lines()
    assert lines[0].startswith("0.0 GB free" if full else "2.0 GB free")
    assert any("The disk was full" in line for line in lines) == full


def named_files(source: Path) -> Iterator[str]:
    """What is written as ROOT / "directory" / "file"."""
    for node in ast.walk(ast.parse(source.read_text())):
        parts: list[str] = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            if not isinstance(node.right, ast.Constant):
                break
            parts.insert(0, str(node.right.value))
            node = node.left
        if parts and isinstance(node, ast.Name) and node.id in ("ROOT", "REPOSITORY"):
            yield "/".join(parts)


def test_files_that_scripts_and_benchmarks_name_exist() -> None:
    sources = [path for top in ("benchmarks", "scripts") for path in (ROOT / top).rglob("*.py")]
    named = {(path, name) for path in sources for name in named_files(path)}
    made = (".cache", "build", "benchmarks/results/raw")
    kept = {(path, name) for path, name in named if not name.startswith(made)}
    assert len(kept) > 8
    assert not {(path, name) for path, name in kept if not (ROOT / name).exists()}


def test_each_fuzzer_has_a_corpus_of_small_seeds() -> None:
    targets = [path.stem.removeprefix("fuzz_") for path in (ROOT / "tests/fuzz").glob("fuzz_*.cc")]
    assert len(targets) >= 6
    for target in targets:
        seeds = list((ROOT / "tests/fuzz/corpus" / target).iterdir())
        assert len(seeds) >= 10, target
        assert all(seed.stat().st_size < 4096 for seed in seeds), target


class TestFreshMachine:
    """What scripts.fresh_machine runs, without a root to run it in."""

    @staticmethod
    def command(*arguments: str, program: tuple[str, ...] = ("make", "test")) -> list[str]:
        options = fresh_machine.parser().parse_args(["bookworm", "/root", *arguments])
        return fresh_machine.command_of(options, program)

    def test_nothing_of_this_machine_gets_in_but_proxies_and_mirrors(self) -> None:
        ours = {
            "AWS_SECRET_ACCESS_KEY": "secret",
            "PYTHONPATH": "/here",
            "PATH": "/here/bin",
            "PIP_INDEX_URL": "https://mirror.example/simple",
            "HTTPS_PROXY": "http://proxy.example:3128",
            "CI": "true",
        }
        run = fresh_machine.environment(ours, "/home/someone")
        assert set(ours) & set(run) == {"PATH", "PIP_INDEX_URL", "HTTPS_PROXY", "CI"}
        assert "/here" not in run["PATH"]
        assert run["HOME"] == "/home/someone"

    def test_rights_are_dropped_before_make(self) -> None:
        assert self.command() == ["make", "test"]
        user = self.command("--user")
        assert user[0] == "setpriv" and "--reuid=someone" in user
        assert user[-2:] == ["make", "test"]
        container = self.command("--unprivileged")
        assert container[:2] == ["setpriv", f"--bounding-set={container[2].partition('=')[2]}"]
        assert "-sys_admin" in container[1] and "-net_admin" in container[1]


class TestOutdatedWheels:
    def test_the_version_is_read_from_the_licence(self, tmp_path: Path) -> None:
        wheel = tmp_path / "a.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            text = "curl 7.88.1-10+deb12u15, the source package of the distribution\n\nCOPYRIGHT"
            archive.writestr("a.dist-info/licenses/curl.txt", text)
            archive.writestr("a.dist-info/licenses/openssl.txt", "openssl\n\nApache")
        assert outdated.version_in(str(wheel), "curl") == "7.88.1-10+deb12u15"
        with pytest.raises(ValueError, match=r"does not begin with a version: openssl"):
            outdated.version_in(str(wheel), "openssl")

    def test_the_candidate_of_apt_is_found(self) -> None:
        policy = "libssl-dev:\n  Installed: 3.0.1-1\n  Candidate: 3.0.2-1\n  Version table:\n"
        assert outdated.offered(policy) == "3.0.2-1"
        with pytest.raises(ValueError, match="apt-get update"):
            outdated.offered("libssl-dev:\n  Installed: (none)\n  Candidate: (none)\n")

    @pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg")
    def test_security_releases_are_newer(self) -> None:
        assert outdated.newer("7.88.1-10+deb12u15", "7.88.1-10+deb12u9")
        assert not outdated.newer("7.88.1-10+deb12u15", "7.88.1-10+deb12u15")


class TestDemoCost:
    """What `make demo` says before it begins."""

    @staticmethod
    def said(directory: Path, **environment: str) -> str:
        command = [str(ROOT / "scripts/demo_cost.sh"), str(directory), str(directory / "venv")]
        env = {**os.environ, "TORCH": "", **environment}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    def test_disk_download_and_minutes(self, tmp_path: Path) -> None:
        text = self.said(tmp_path)
        assert "needs 8 GB of disk" in text and "3 GB of download" in text and "minutes" in text
        assert "TORCH=cpu" in text
        assert "needs 5 GB of disk" in self.said(tmp_path, TORCH="cpu")

    def test_nothing_once_everything_is_installed(self, tmp_path: Path) -> None:
        (tmp_path / "package").touch()
        assert self.said(tmp_path) != ""
        (tmp_path / "demo").touch()
        assert self.said(tmp_path) == ""


WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_and_forms_name_what_exists(path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = path.read_text()
    document = yaml.safe_load(text)
    assert document
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = re.findall(r"(?:run: |&& |^\s+|')make ([a-z][\w-]*)", text, re.M)
    assert set(called) <= targets
    named = re.findall(r"(?<![\w/-])(?:\.ci|scripts|tests|packages)/[\w./-]+\w", text)
    named += [one.removeprefix("./") for one in re.findall(r"uses: (\./\S+)", text)]
    assert not [name for name in named if not (ROOT / name).exists()]
    for module in re.findall(r"python3? -m ((?:scripts|tests|benchmarks)[\w.]*)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    groups = set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.M))
    assert set(re.findall(r"--group (\w[\w-]*)", text)) <= groups
    for job in document.get("jobs", {}).values():
        needed = job.get("needs", [])
        needed = {needed} if isinstance(needed, str) else set(needed)
        assert needed <= document["jobs"].keys()
        assert "uses" in job or job.get("timeout-minutes"), "it may run for six hours"

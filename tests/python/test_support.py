"""What tests share: servers end with the tests, and missing ones are told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.processes import PACKAGE, ROOT, bare_environment
from tests.support.servers import Server, Unavailable

# Starts a server that leaves its group and its parent, as daemons do, and waits.
TEST_RUN = """
import sys, time
from tests.support.servers.process import Server
DAEMON = '''
import os, sys, time
os.setsid()
if os.fork() == 0:
    print(os.getpid(), os.getppid(), flush=True)
    os.kill(os.getppid(), 9)
    time.sleep(600)
time.sleep(600)
'''
class Daemon(Server):
    def start(self):
        self.spawn([sys.executable, "-c", "import os, sys, time\\nif os.fork() == 0:"
                    " os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\\n"
                    "time.sleep(600)", DAEMON])
        self.wait_until(lambda: self.log().count(" "), "the daemon")
server = Daemon()
with server:
    if sys.argv[1] == "stop":
        daemon = server.log()
    else:
        print(server._processes[0].pid, server.log(), flush=True)
        time.sleep(600)
print(daemon, flush=True)
"""


def start(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TEST_RUN, how], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_is_killed_leaves_nothing_behind():
    run = start("wait")
    assert run.stdout is not None
    pids = [int(word) for word in run.stdout.readline().split()]
    assert running(pids[0])
    assert running(pids[1])  # the daemon; its parent is gone
    run.kill()
    run.wait()
    while any(map(running, pids)):  # until the test's own limit
        time.sleep(0.02)
    run.stdout.close()


def test_a_server_that_is_stopped_leaves_nothing_behind():
    run = start("stop")
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0
    assert not any(running(int(word)) for word in output.split())


class Missing(Server):
    def start(self):
        raise Unavailable("no program\nfor this machine")


@pytest.fixture
def nothing_required(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("STREAMER_REQUIRE_SERVERS", raising=False)


def test_a_missing_server_skips_with_its_name_and_the_reason(nothing_required):
    with (
        pytest.raises(pytest.skip.Exception, match=r"^Missing missing: no program for this"),
        needs.running(Missing()),
    ):
        raise AssertionError("started")


@pytest.mark.parametrize("name", ["CI", "STREAMER_REQUIRE_SERVERS"])
def test_a_missing_server_that_is_required_is_a_failure(nothing_required, monkeypatch, name):
    monkeypatch.setenv(name, "true")
    with (
        pytest.raises(pytest.fail.Exception, match="Missing is missing, and servers are required"),
        needs.running(Missing()),
    ):
        raise AssertionError("started")


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_servers_are_not_required_by_an_empty_variable(nothing_required, monkeypatch, value):
    monkeypatch.setenv("CI", value)
    assert not needs.servers_are_required()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sh", "-c", "echo first >&2; echo not permitted >&2; exit 1"], "not permitted"),
        (["sh", "-c", "exit 3"], "exit status 3"),
        (["/nothing/here"], "No such file"),
    ],
)
def test_an_attempt_that_fails_is_an_obstacle(monkeypatch, command, reason):
    monkeypatch.setitem(needs.CAPABILITIES, "something", command)
    found = needs.obstacle.__wrapped__("something")
    assert found.startswith("needs something: ")
    assert reason in found


def test_an_attempt_that_succeeds_is_no_obstacle(monkeypatch):
    monkeypatch.setitem(needs.CAPABILITIES, "something", ["true"])
    assert needs.obstacle.__wrapped__("something") is None


@pytest.mark.parametrize("required", [False, True])
def test_skips_are_counted_by_reason_in_the_last_lines(pytester_run, required):
    output = pytester_run({"CI": "true"} if required else {})
    if required:
        assert "2 errors" in output.splitlines()[-1]
    else:
        assert output.splitlines()[-2] == "2 skipped: Missing missing: none"
        assert output.splitlines()[-1].startswith("2 skipped in ")


@pytest.fixture
def pytester_run(tmp_path):
    """Runs two tests that need a server that is missing."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text("""
import pytest
from tests.support import needs
from tests.support.servers import Server, Unavailable
class Missing(Server):
    def start(self):
        raise Unavailable("none")
@pytest.fixture
def server():
    with needs.running(Missing()):
        yield
@pytest.mark.parametrize("index", [1, 2])
def test_it(server, index):
    pass
""")

    def run(env):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, tmp_path],
            env={**bare_environment(**env), "PYTHONPATH": os.pathsep.join([PACKAGE, str(ROOT)])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    return run

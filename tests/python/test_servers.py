"""The servers of the tests end with them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert not any(running(int(word)) for word in output.split())

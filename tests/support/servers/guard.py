"""python guard.py PARENT COMMAND...: runs COMMAND, and ends all that it started with it.

That is when COMMAND ends, when this process is asked to end, and when PARENT, the process that
started this one, is gone, however it went: also what has left the process group. A standalone
program, which a test's interpreter starts in a few milliseconds.
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIGNALS = {signal.SIGTERM, signal.SIGCHLD}


def below(pid: int) -> list[int]:
    """The processes that `pid` has started, and those that these have."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                found += map(int, children.read().split())
    return found + [other for child in found for other in below(child)]


def end_all() -> None:
    # Orphans become children of this process; those that they start meanwhile are met next time.
    while children := below(os.getpid()):
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def main(parent: int, command: list[str]) -> int:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error}", file=sys.stderr, flush=True)
            os._exit(127)
    status = 0
    while signal.sigwait(SIGNALS) == signal.SIGCHLD:
        ended, result = os.waitpid(-1, os.WNOHANG)
        while ended not in (0, child):
            ended, result = os.waitpid(-1, os.WNOHANG)
        if ended == child:
            status = os.waitstatus_to_exitcode(result)
            break
    end_all()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1]), sys.argv[2:]))

"""Programs that touch tensors whose file is truncated meanwhile, and their own SIGBUS.

Each case runs in a forked child of one program: the wrong answer is a SIGBUS.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.support.models import MIB, save_floats
from tests.support.processes import environment, python

SIZES = [70_000, 100, MIB, 100, 70_000]

# Runs each case in a child of its own; prints how it ended, what it printed and what it said on
# standard error. argv: the path of the model.
PROGRAM = """
import faulthandler, json, mmap, os, random, signal, sys, tempfile, threading, time
from runai_model_streamer import SafetensorsStreamer, StreamerError, _native

CONTENT = open(sys.argv[1], "rb").read()
path, seed = sys.argv[1] + ".case", int(sys.argv[2])
CASES = {}

def case(*arguments):
    def add(function):
        CASES["-".join([function.__name__, *map(str, arguments)])] = (function, arguments)
        return function
    return add

def run(function, arguments):
    with open(path, "wb") as file:
        file.write(CONTENT)
    time.sleep(0.01)  # the clock of modification times is coarse
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            try:
                answer = function(*arguments)
            except StreamerError as error:
                answer = [error.code, error.path == path]
            os.write(1, json.dumps(answer).encode())
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        return [os.waitstatus_to_exitcode(status), os.pread(out.fileno(), 9999, 0).decode(),
                os.pread(err.fileno(), 9999, 0).decode()]

def touch(tensors):
    for tensor in tensors:
        tensor.sum()
        tensor[-1] = 1

def touch_as(who, tensors):
    if who == "threads":
        threads = [threading.Thread(target=touch, args=(tensors,)) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    elif who == "child":
        child = os.fork()
        if child == 0:
            touch(tensors)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    touch(tensors)

def touched(who, enabled, last):
    kept = []
    if enabled == "before":
        faulthandler.enable()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], owned=who != "shared")
        if enabled == "opened":
            faulthandler.enable()
        for number, (name, tensor) in enumerate(streamer.get_tensors(), 1):
            kept.append(tensor)
            del tensor
            if number == last:
                os.truncate(path, 5000)
                touch_as(who, kept)
                if who == "dropped":
                    kept.clear()
                if who == "closed":
                    break
    return "complete"

for who in ("thread", "threads", "child", "dropped", "closed", "shared"):
    for last in (2, 5):
        case(who, "never", last)(touched)
for enabled in ("before", "opened"):
    case("thread", enabled, 2)(touched)

# At any moment of a loop that touches everything.
@case()
def cut():
    random.seed(seed)
    answers = set()
    for _ in range(25):
        with open(path, "wb") as file:
            file.write(CONTENT)
        time.sleep(0.01)
        delay, left = random.random() * 0.01, random.choice([0, 5000, len(CONTENT) // 2])
        def truncate():
            time.sleep(delay)
            os.truncate(path, left)
        thread = threading.Thread(target=truncate)
        kept = []
        try:
            with SafetensorsStreamer() as streamer:
                streamer.stream_files([path], owned=random.random() < 0.7)
                thread.start()
                for _, tensor in streamer.get_tensors():
                    touch([tensor] * random.randrange(1, 4))
                    if random.random() < 0.5:
                        kept.append(tensor)
            answers.add("complete")
        except StreamerError as error:
            answers.add(error.code)
        if thread.ident:
            thread.join()
        kept.clear()
    return sorted(answers)

# Faults that are not the streamer's.
def foreign(what, enabled):
    if enabled == "before":
        faulthandler.enable()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        if enabled == "opened":
            faulthandler.enable()
        held = next(streamer.get_tensors())
        if enabled == "iterating":
            faulthandler.enable()
        if what == "fault":
            with tempfile.TemporaryFile() as own:
                own.write(bytes(mmap.PAGESIZE))
                own.flush()
                mapping = mmap.mmap(own.fileno(), 0, prot=mmap.PROT_READ)
                own.truncate(0)
                mapping[5]
        elif what == "raise":
            signal.raise_signal(signal.SIGBUS)
        else:
            os.kill(os.getpid(), signal.SIGBUS)
            time.sleep(60)
    return "went on"

for what in ("fault", "raise", "kill"):
    for enabled in ("never", "before", "opened", "iterating"):
        case(what, enabled)(foreign)

def handles_sigbus():
    with open("/proc/self/status") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGBUS - 1) & 1)

@case()
def handled():
    found = [handles_sigbus()]
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for _ in streamer.get_tensors():
            pass
        found.append(handles_sigbus())
    return [*found, handles_sigbus()]

# Nobody would be told any more.
@case()
def after_the_load():
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path], owned=False)
        kept = [tensor for _, tensor in streamer.get_tensors()]
    os.truncate(path, 0)
    touch(kept)
    return "went on"

chosen = {name: what for name, what in CASES.items() if name.startswith(sys.argv[3])}
print(json.dumps({name: run(*what) for name, what in chosen.items()}))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lost") / "a.safetensors"
    save_floats(file, SIZES)
    return file


Ends = dict[str, tuple[int, str, str]]


def run_cases(path: Path, first: str = "", handle: str = "1") -> Ends:
    seed = int(time.time())
    print("seed", seed)
    settings = {"RUNAI_STREAMER_FS_STRATEGY": "mapped", "RUNAI_STREAMER_HANDLE_SIGBUS": handle}
    answers = python(PROGRAM, path, seed, first, env=environment(**settings))
    return {name: (code, out, error) for name, (code, out, error) in json.loads(answers).items()}


@pytest.fixture(scope="module")
def ends(path: Path) -> Ends:
    return run_cases(path)


def of(ends: Ends, name: str) -> Ends:
    found = {key: end for key, end in ends.items() if key.split("-")[0] == name}
    assert found
    return found


def test_a_program_that_touches_lost_bytes_gets_an_error(ends: Ends) -> None:
    right = (0, '["changed", true]', "")
    assert {name: end for name, end in of(ends, "touched").items() if end != right} == {}


def test_a_truncation_at_any_moment_ends_in_an_error_or_a_whole_load(ends: Ends) -> None:
    code, answers, _ = ends["cut"]
    assert code == 0
    assert set(json.loads(answers)) <= {"changed", "complete", "short_read"}


def test_every_other_sigbus_stays_the_program_s(ends: Ends) -> None:
    for name, (code, out, error) in of(ends, "foreign").items():
        assert (name, code, out) == (name, -signal.SIGBUS, "")
        reports = error.count("Fatal Python error: Bus error")
        assert (name, reports) == (name, 0 if name.endswith("never") else 1)


def test_the_signal_is_handled_while_files_are_mapped(ends: Ends) -> None:
    assert ends["handled"] == (0, "[false, true, false]", "")


def test_shared_tensors_do_not_turn_to_zeros_unnoticed(ends: Ends) -> None:
    assert ends["after_the_load"] == (-signal.SIGBUS, "", "")


def test_the_handler_can_be_switched_off(path: Path) -> None:
    off = run_cases(path, "handled", handle="0")
    assert off["handled"] == (0, "[false, false, false]", "")
    lost = run_cases(path, "touched-thread-never-2", handle="0")
    assert [end[0] for end in lost.values()] == [-signal.SIGBUS]

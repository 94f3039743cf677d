"""Checks of local files: the file system, the limits of the process, the GPU."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import stat
import time
from collections.abc import Iterator

from runai_model_streamer import _native_api as native
from runai_model_streamer._errors import StreamerError
from runai_model_streamer._paths import to_native
from runai_model_streamer._storage.local import is_weights
from runai_model_streamer._tools.steps import FAIL, OK, SKIP, WARN, Step
from runai_model_streamer._units import size_text

_BLOCK = 4 << 20
_SECONDS = 2.0
_SLOW = 50 << 20  # bytes per second of a disk that are worth a word
_TELLING = 0.5  # seconds of reading that say something
HEADER_BYTES = 1024  # tell what a file is
_DESCRIPTORS = 1024
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_REMOTE_FS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "ceph", "lustre", "glusterfs", "9p")


def local_steps(path: str) -> Iterator[Step]:
    """The steps on the way to the bytes of a file, or of the largest file of a directory."""
    step, file = _find(path)
    yield step
    if file is None:
        return
    with open(file, "rb") as opened:
        yield from header_step(file, opened.read(HEADER_BYTES), os.path.getsize(file))
    yield _file_system(file)
    yield _page_cache(file)
    yield from _direct(file)
    yield from _limits()
    yield from _gpu()


def _find(path: str) -> tuple[Step, str | None]:
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                found = list(entries)
            wrong = next(filter(None, map(_obstacle, found)), None)
            if wrong is not None:
                return wrong, None
            found = [e for e in found if e.is_file()]
            if not found:
                text = f"{path}: the directory has no files"
                return Step("file", FAIL, text, "Check the path", "missing"), None
            path = max(found, key=lambda entry: entry.stat().st_size).path
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait
            text = f"{path}: it is no file"
            return Step("file", FAIL, text, "Check the path", "missing"), None
        with open(path, "rb") as file:
            file.read(1)
    except PermissionError:
        return _forbidden(_barrier(path)), None
    except OSError as error:
        text = f"{path}: {os.strerror(error.errno or 0).lower()}"
        if error.errno in _NOWHERE:
            cure = "Check the path, and that the volume is mounted"
            return Step("file", FAIL, text, cure, "missing"), None
        return Step("file", FAIL, text, "Look at the log of the kernel (dmesg)", "slow"), None
    return Step("file", OK, f"{path}, {size_text(os.path.getsize(path))}"), path


def header_step(path: str, prefix: bytes, size: int) -> Iterator[Step]:
    """Of a safetensors file, that it begins as one: a page of a login has arrived, too."""
    if not is_weights(path.partition("?")[0].rpartition("/")[2]):
        return
    try:
        native.safetensors_header_end(prefix, path, size)
    except StreamerError as error:
        yield Step("header", FAIL, str(error), error.hint or "", "format")
    else:
        yield Step("header", OK, "the file begins as safetensors files do")


def _obstacle(entry: os.DirEntry[str]) -> Step | None:
    """What is wrong with an entry of a directory, of which one file alone is read."""
    if entry.is_symlink() and not os.path.exists(entry.path):
        text = f"{entry.path}: the link leads to {os.readlink(entry.path)}, which is not there"
        cure = "Copy or download the file again, or mount the volume that has it"
        return Step("file", FAIL, text, cure, "missing")
    if entry.is_file() and not os.access(entry.path, os.R_OK):
        return _forbidden(entry.path)
    return None


def _forbidden(path: str) -> Step:
    cure = "Check the owner and the mode of it (ls -ld)"
    return Step("file", FAIL, f"{path}: permission denied", cure, "permission")


def _barrier(path: str) -> str:
    """The first part of `path` that may not be passed."""
    whole = os.path.abspath(path)
    parts = whole.strip("/").split("/")
    for count in range(1, len(parts)):
        directory = "/" + "/".join(parts[:count])
        if not os.access(directory, os.X_OK):
            return directory
    return whole


def _file_system(file: str) -> Step:
    whole, best, kind = os.path.realpath(file), "", "unknown"
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, place, name = line.split(" ")[:3]
                place = place.replace("\\040", " ")
                inside = whole == place or whole.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= len(best):
                    best, kind = place, name
    except OSError:
        return Step("file system", SKIP, "the system does not tell")
    text = f"{kind} at {best}"
    if kind in _REMOTE_FS:
        text += ", over a network: latency and server limit the rate"
    return Step("file system", OK, text)


def _page_cache(file: str) -> Step:
    try:
        part = native.cached_fraction(to_native(file))
    except StreamerError as error:
        return Step("page cache", SKIP, str(error))
    return Step("page cache", OK, f"{100 * part:.0f} % of the file")


def _direct(file: str) -> Iterator[Step]:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        descriptor, direct = os.open(file, flags | os.O_DIRECT), True
    except OSError as error:
        text = f"not possible ({error.strerror}): reads go through the page cache"
        yield Step("direct I/O", WARN, text)
        descriptor, direct = os.open(file, flags), False
    else:
        yield Step("direct I/O", OK, "possible")
    try:
        if not direct:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        yield _rate(descriptor, os.path.getsize(file))
    finally:
        os.close(descriptor)


def _rate(descriptor: int, size: int) -> Step:
    """The bytes that one thread reads from the disk within some seconds."""
    began = time.monotonic()
    done = 0
    with mmap.mmap(-1, _BLOCK) as memory:
        while time.monotonic() - began < _SECONDS:
            try:
                count = os.preadv(descriptor, [memory], done)
            except OSError as error:
                text = f"a read at {done} failed: {error.strerror}"
                return Step("rate", FAIL, text, "Look at the log of the kernel (dmesg)", "slow")
            done += count
            if count < _BLOCK or done >= 256 << 20:
                break
    seconds = max(time.monotonic() - began, 1e-6)
    rate = done / seconds
    text = f"{size_text(done)} in {seconds:.2f} s, {size_text(rate)}/s by one thread"
    if rate < _SLOW and seconds >= _TELLING:
        cure = "Look at the disk (iostat -x), at its quota, and at who else uses it"
        return Step("rate", WARN, text, cure, "slow")
    return Step("rate", OK, text)


def _limits() -> Iterator[Step]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _DESCRIPTORS:
        cure = f"Raise it: ulimit -n {min(65536, hard)}"
        yield Step("descriptors", WARN, f"at most {soft} open files", cure)
    else:
        yield Step("descriptors", OK, f"at most {_shown(soft)} open files")
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    yield Step("memory lock", OK, f"at most {_bytes(locked)}")
    limit = _cgroup_limit()
    if limit is None:
        yield Step("cgroup", OK, "no limit of memory")
        return
    wanted = native.setting("RUNAI_STREAMER_MEMORY_LIMIT")
    text = f"{size_text(limit)} of memory"
    if wanted is not None and wanted > limit:
        cure = "Lower RUNAI_STREAMER_MEMORY_LIMIT, or raise the limit of the container"
        yield Step(
            "cgroup", FAIL, f"{text}, RUNAI_STREAMER_MEMORY_LIMIT is {wanted}", cure, "memory"
        )
    else:
        yield Step("cgroup", OK, text)


def _shown(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)


def _bytes(limit: int) -> str:
    return "any number of bytes" if limit == resource.RLIM_INFINITY else size_text(limit)


def _cgroup_limit() -> int | None:
    """The memory that the process may use, in bytes; None: all that there is."""
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    least: int | None = None
    for line in lines:
        _, controllers, place = line.split(":", 2)
        base, name = ("/sys/fs/cgroup", "memory.max")
        if "memory" in controllers.split(","):
            base, name = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        elif controllers:
            continue
        directory = place
        while True:
            try:
                with open(base + directory.rstrip("/") + "/" + name, encoding="ascii") as file:
                    value = file.read().strip()
                if value.isdigit() and int(value) < 1 << 60:
                    least = int(value) if least is None else min(least, int(value))
            except OSError:
                pass
            if directory in ("", "/"):
                break
            directory = os.path.dirname(directory)
    return least


def _gpu() -> Iterator[Step]:
    try:
        import torch
    except ImportError:
        yield Step("GPU", SKIP, "PyTorch is not installed")
        return
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        yield Step("GPU", SKIP, "this build of PyTorch is for CPUs")
        return
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        if getattr(torch.version, "hip", None) is None:
            yield Step("GPU", SKIP, "there is no driver (libcuda.so.1)")
            return
    if not torch.cuda.is_available():
        cure = "Check nvidia-smi, CUDA_VISIBLE_DEVICES, and the devices of the container"
        yield Step("GPU", WARN, "PyTorch sees no GPU", cure, "gpu")
        return
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Step("GPU", OK, ", ".join(names))
    try:
        torch.empty(16 << 20, dtype=torch.uint8, pin_memory=True, device="cpu")
    except RuntimeError as error:
        cure = "Raise the limit of locked memory (ulimit -l), or free memory"
        yield Step("pinned memory", WARN, str(error).splitlines()[0], cure, "gpu")
    else:
        yield Step("pinned memory", OK, "can be allocated")

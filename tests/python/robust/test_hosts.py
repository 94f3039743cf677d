"""In other people's processes: small limits, other allocators, threads, users and languages."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import SafetensorsStreamer
from tests.support.needs import available, running
from tests.support.processes import bare_environment, python
from tests.support.servers import debian
from tests.support.servers.nginx import Nginx
from tests.support.servers.tls import Authority

# Loads the files that are its arguments and prints how many tensors they had.
LOAD = """
import sys
from runai_model_streamer import SafetensorsStreamer
with SafetensorsStreamer() as s:
    s.stream_files(sys.argv[1:])
    print(len(list(s.get_tensors())))
"""

# The same, with as many more descriptors as its first argument says; prints the error.
LOAD_WITHOUT_DESCRIPTORS = """
import os, resource, sys, torch
from runai_model_streamer import SafetensorsStreamer
free = os.open("/dev/null", os.O_RDONLY); os.close(free)
limit = free + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    with SafetensorsStreamer() as s:
        s.stream_files(sys.argv[2:])
        list(s.get_tensors())
except ValueError as error:
    print(error.errno, error)
"""


@pytest.fixture(scope="module")
def files() -> Iterator[list[str]]:
    """40 files of 5 tensors, that any user may read (pytest's own directories are private)."""
    directory = Path(tempfile.mkdtemp(prefix="streamer-"))
    directory.chmod(0o755)
    names = []
    for i in range(40):
        tensors = {f"{i}.{j}": torch.full((1000 + i, 11), float(j)) for j in range(5)}
        names.append(str(directory / f"{i:02d}.safetensors"))
        save_file(tensors, names[-1])
        os.chmod(names[-1], 0o644)
    yield names
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def served(
    files: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[str], str]]:
    """The files at https addresses, and the certificates that their server is known by."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with running(Nginx(Path(files[0]).parent, certificate=authority.issue("nginx"))) as server:
        yield [f"{server.tls_url}/{Path(name).name}" for name in files], str(authority.ca)


def run(code: str, *arguments: str, env: dict[str, str] | None = None, **options) -> str:
    return python(code, *arguments, env=env or bare_environment(), **options)


@pytest.mark.parametrize("first", ["torch", "runai_model_streamer"])
def test_the_order_of_imports_does_not_matter(files: list[str], first: str) -> None:
    assert run(f"import {first}\nimport torch\n" + LOAD, *files) == "200"


@pytest.mark.parametrize("limit", [256, 64])
def test_few_file_descriptors(files: list[str], limit: int) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    assert run("import torch\n" + code + LOAD, *files) == "200"


@pytest.mark.servers
def test_no_file_descriptors_for_connections_is_an_error_that_says_so(
    served: tuple[list[str], str],
) -> None:
    addresses, ca = served
    env = bare_environment(SSL_CERT_FILE=ca, RUNAI_STREAMER_MAX_ATTEMPTS="1")
    said = run(LOAD_WITHOUT_DESCRIPTORS, "1", *addresses, env=env)
    assert said.startswith("24 ")
    assert "ulimit" in said


def test_no_file_descriptors_is_an_error_that_says_so(files: list[str]) -> None:
    said = run(LOAD_WITHOUT_DESCRIPTORS, "0", *files)
    assert said.startswith("24 ")
    assert "descriptor" in said or "open files" in said


@pytest.mark.servers
def test_jemalloc_may_replace_malloc(files: list[str]) -> None:
    with available("jemalloc"):
        root = debian.unpack("jemalloc", "libjemalloc2")
    library = next(root.glob("**/libjemalloc.so.2"))
    assert run(LOAD, *files, env=bare_environment(LD_PRELOAD=str(library))) == "200"


@pytest.mark.servers
@pytest.mark.parametrize("first", ["it", "ours"])
def test_another_libcurl_and_openssl_in_the_process(
    served: tuple[list[str], str], first: str
) -> None:
    """That of GnuTLS, for all to see, and Python's ssl; while ours speaks TLS."""
    with available("libcurl3-gnutls"):
        root = debian.unpack("curl-gnutls", "libcurl3-gnutls")
    library = next(root.glob("**/libcurl-gnutls.so.4"))
    code = f"""
import ctypes, ssl
other = ctypes.CDLL({str(library)!r}, mode=ctypes.RTLD_GLOBAL)
other.curl_global_init(3)
other.curl_easy_init.restype = ctypes.c_void_p
assert other.curl_easy_init()
assert ssl.create_default_context().get_ca_certs is not None
"""
    addresses, ca = served
    env = bare_environment(SSL_CERT_FILE=ca)
    env["LD_LIBRARY_PATH"] = os.pathsep.join(
        filter(None, [env.get("LD_LIBRARY_PATH"), debian.library_path(root)])
    )
    before = "" if first == "it" else "import runai_model_streamer\n"
    assert run(before + code + LOAD, *addresses, env=env) == "200"


def test_threads_of_asyncio_load_at_once(files: list[str]) -> None:
    def load(part: list[str]) -> int:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(part)
            return len(list(streamer.get_tensors()))

    async def load_all() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(load, files[i::4]) for i in range(4)))

    assert asyncio.run(load_all()) == [50] * 4


def test_gevent_runs_a_load(files: list[str]) -> None:
    pytest.importorskip("gevent")
    assert run("from gevent import monkey; monkey.patch_all()\n" + LOAD, *files) == "200"


def test_a_sub_interpreter_is_refused() -> None:
    code = """
import os
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
read, write = os.pipe()
id = interpreters.create()
interpreters.run_string(id, f'''
import os
try:
    import runai_model_streamer
except ImportError as error:
    os.write({write}, b"ImportError")
else:
    os.write({write}, b"no error")
''')
print(os.read(read, 100).decode())
"""
    assert run(code) == "ImportError"


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_a_load_needs_no_home_and_no_locale(files: list[str], locale: str) -> None:
    env = bare_environment(LC_ALL=locale, LANG=locale)
    assert "HOME" not in env
    assert run(LOAD, *files, env=env, cwd="/") == "200"


def test_names_that_are_not_ascii_under_the_plain_locale(files: list[str], tmp_path: Path) -> None:
    odd = tmp_path / "modèle 模型.safetensors"
    shutil.copy(files[0], odd)
    assert run(LOAD, str(odd), env=bare_environment(LC_ALL="C")) == "5"


@pytest.mark.needs("another user")
def test_the_user_nobody_can_load(files: list[str]) -> None:
    code = "import os, torch; os.setgid(65534); os.setuid(65534); os.chdir('/')\n"
    assert run(code + LOAD, *files, env=bare_environment(LC_ALL="C")) == "200"


@pytest.mark.needs("mount namespaces")
def test_a_read_only_file_system(files: list[str]) -> None:
    script = 'mount -o remount,ro,bind / / 2>/dev/null || mount --bind -o ro / /; exec "$@"'
    wrap = ["unshare", "--mount", "sh", "-c", script, "sh"]
    code = "import os\ntry:\n    open('/tmp-check', 'w'); print('writable')\nexcept OSError: pass\n"
    assert run(code + LOAD, *files, prefix=wrap, cwd="/") == "200"


def test_what_ray_sends_around_can_be_pickled(files: list[str]) -> None:
    from runai_model_streamer._credentials.s3_credentials import S3Credentials

    credentials = S3Credentials(access_key_id="a", secret_access_key="b", region_name="r")
    copy = pickle.loads(pickle.dumps(credentials))
    assert (copy.access_key_id, copy.secret_access_key, copy.region_name) == ("a", "b", "r")
    paths = pickle.loads(pickle.dumps([Path(name) for name in files]))
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        assert len(list(streamer.get_tensors())) == 200

"""Which implementation runs, and installations in which two are mixed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import runai_model_streamer
from runai_model_streamer import _installation
from tests.support import models
from tests.support.processes import PACKAGE, run_python

VERSION = runai_model_streamer.__version__
TEXT = "files of two implementations of runai_model_streamer are installed"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Directory of an installation of three small modules, as pip leaves it."""
    site = tmp_path / "site-packages"
    package = site / "runai_model_streamer"
    (package / "libstreamer" / "lib").mkdir(parents=True)
    record = []
    for name, text in {"__init__.py": "one", "dcp.py": "three", "_errors.py": "five"}.items():
        (package / name).write_text(text)
        record.append(f"runai_model_streamer/{name},sha256=x,{len(text)}")
    metadata = site / "runai_model_streamer-0.18.0.dist-info"
    metadata.mkdir()
    (metadata / "RECORD").write_text("\n".join(record) + "\n")
    return site


def found(site: Path, *others: Path) -> str:
    package = site / "runai_model_streamer"
    return "; ".join(_installation.problems(package, [str(site), *map(str, others)]))


def test_a_proper_installation_has_no_problems(site: Path) -> None:
    for name in ("runai_model_streamer_s3-0.18.0.dist-info", "torch-2.13.0.dist-info"):
        (site / name).mkdir()
    assert found(site, site, site.parent / "absent" / "site-packages") == ""


def test_this_installation_has_no_problems() -> None:
    assert _installation.problems() == []


def test_a_library_of_a_plugin_is_named(site: Path) -> None:
    library = site / "runai_model_streamer" / "libstreamer" / "lib" / "libstreamers3.so"
    library.touch()
    assert found(site) == f"{library} is a library of the original"


def test_a_plugin_of_another_version_is_named(site: Path) -> None:
    (site / "runai_model_streamer_gcs-0.17.0.dist-info").mkdir()
    expected = "runai-model-streamer-gcs 0.17.0 does not go with runai-model-streamer 0.18.0"
    assert found(site) == expected


def test_two_versions_in_one_directory_are_named(site: Path) -> None:
    (site / "runai_model_streamer-0.17.0.dist-info").mkdir()
    expected = f"runai-model-streamer is installed as 0.17.0 and 0.18.0 in {site}"
    assert found(site) == expected


def test_an_installation_in_another_directory_is_named(site: Path, tmp_path: Path) -> None:
    other = tmp_path / "user" / "site-packages"
    (other / "runai_model_streamer-0.17.0.dist-info").mkdir(parents=True)
    assert found(site, other) == f"runai-model-streamer 0.17.0 is installed in {other}, too"


def test_overwritten_and_missing_files_are_named(site: Path) -> None:
    (site / "runai_model_streamer" / "__init__.py").write_text("of the original")
    (site / "runai_model_streamer" / "dcp.py").unlink()
    assert found(site).endswith(
        ": runai_model_streamer/__init__.py, runai_model_streamer/dcp.py (missing)"
    )


def test_files_whose_names_no_other_implementation_has_are_not_looked_at(site: Path) -> None:
    (site / "runai_model_streamer" / "_errors.py").unlink()
    assert found(site) == ""


def test_what_has_no_list_of_files_is_no_problem(site: Path) -> None:
    (site / "runai_model_streamer-0.18.0.dist-info" / "RECORD").unlink()
    assert found(site) == ""
    (site / "runai_model_streamer-0.18.0.dist-info").rmdir()
    assert found(site) == ""


LOAD = (
    "import sys\n"
    "from runai_model_streamer import SafetensorsStreamer\n"
    "for _ in range(2):\n"
    "    with SafetensorsStreamer() as s:\n"
    "        s.stream_files(sys.argv[1:]); list(s.get_tensors())\n"
)


def test_a_process_says_once_which_implementation_runs(tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=1)
    text = run_python(LOAD, *files, RUNAI_STREAMER_LOG_TO_STDERR="1").stderr
    line = f"[INFO] Model Streamer {VERSION} runs, from {PACKAGE}/runai_model_streamer"
    assert text.count(line) == 1
    assert "two implementations" not in text


def copy(site: Path) -> Path:
    """The installed package, copied."""
    package = site / "runai_model_streamer"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(PACKAGE, package.name), package, ignore=ignored)
    return package


def run(site: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_a_mixed_installation_is_a_warning_and_loads(tmp_path: Path) -> None:
    files = models.dense(tmp_path, files=1, tensors=1)
    package = copy(tmp_path / "site-packages")
    (package / "libstreamer" / "lib" / "libstreamerazure.so").touch()
    code = "import os; os.environ['RUNAI_STREAMER_LOG_TO_STDERR'] = '1'\n" + LOAD
    done = run(package.parent, code, *map(str, files))
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count(
            "[WARNING] files of two implementations of runai_model_streamer are installed"
        )
        == 1
    )
    assert "libstreamerazure.so is a library of the original" in done.stderr
    assert "Uninstall runai-model-streamer, " in done.stderr


def test_a_library_that_cannot_be_used_names_the_mixed_installation(tmp_path: Path) -> None:
    package = copy(tmp_path / "site-packages")
    library = package / "libstreamer" / "lib" / "libstreamer.so"
    library.write_bytes(b"of another implementation")
    (package / "libstreamer" / "lib" / "libstreamers3.so").touch()
    done = run(package.parent, "import runai_model_streamer")
    assert (
        "ImportError: files of two implementations of runai_model_streamer are installed: "
        in done.stderr
    )
    assert "libstreamers3.so is a library of the original" in done.stderr
    assert ". Uninstall runai-model-streamer, " in done.stderr

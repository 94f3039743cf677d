"""Names, versions and extras that the requirements of consumers ask for."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KINDS = ["s3", "gcs", "azure"]


def version() -> str:
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.search(r"project\(model_streamer VERSION ([0-9.]+)", text)
    assert found
    return found[1]


def test_the_distribution_satisfies_the_consumers() -> None:
    try:
        distribution = importlib.metadata.distribution("runai-model-streamer")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from a build tree: the package is not installed")
    assert distribution.version == version()
    assert tuple(map(int, distribution.version.split(".")[:2])) >= (0, 17)
    extras = set(distribution.metadata.get_all("Provides-Extra") or [])
    assert {"s3", "gcs", "gs", "azure"} <= extras
    requirements = [r for r in distribution.requires or [] if "extra ==" not in r]
    assert {re.split(r"[<>=!~ ]", r)[0] for r in requirements} == {"torch", "numpy"}


@pytest.mark.parametrize("kind", KINDS)
def test_siblings_pull_the_extra_of_this_version(kind: str) -> None:
    text = (ROOT / "packages" / f"runai-model-streamer-{kind}" / "pyproject.toml").read_text()
    assert f'name = "runai-model-streamer-{kind}"' in text
    assert f'version = "{version()}"' in text
    assert f'"runai-model-streamer[{kind}]=={version()}"' in text


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Their wheels, built."""
    pytest.importorskip("setuptools")
    directory = tmp_path_factory.mktemp("siblings")
    # Copied, since setuptools builds into the source's directory.
    shutil.copytree(ROOT / "packages", directory / "source")
    sources = [str(directory / "source" / f"runai-model-streamer-{kind}") for kind in KINDS]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(directory), *sources], check=True
    )
    return {kind: next(directory.glob(f"runai_model_streamer_{kind}-*.whl")) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_siblings_build_and_have_the_import_name(kind: str, siblings: dict[str, Path]) -> None:
    with zipfile.ZipFile(siblings[kind]) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    assert f"runai_model_streamer_{kind}/__init__.py" in names
    assert f"Requires-Dist: runai-model-streamer[{kind}]=={version()}" in text


def test_siblings_install_beside_the_package(siblings: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    try:
        importlib.metadata.distribution("runai-model-streamer")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from a build tree: the package is not installed")
    # What is installed here is visible there, and enough: nothing is fetched.
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-index"]
    command += ["--find-links", str(siblings["s3"].parent)]
    subprocess.run([*command, *(f"runai-model-streamer-{kind}" for kind in KINDS)], check=True)
    code = "import runai_model_streamer, " + ", ".join(f"runai_model_streamer_{k}" for k in KINDS)
    subprocess.run([str(python), "-c", code], check=True, cwd=tmp_path)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("scikit_build_core")
    directory = tmp_path_factory.mktemp("sdist")
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(directory)], check=True, cwd=ROOT)
    (built,) = directory.glob("*.tar.gz")
    return built


def test_the_sdist_has_the_sources_and_nothing_that_was_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    suffixes = {".cc", ".c", ".h", ".in", ".map", ".py", ".pyi", ".cmake", ".txt", ".typed"}
    needed = {
        str(path.relative_to(ROOT))
        for directory in ("cpp", "cmake", "python")
        for path in (ROOT / directory).rglob("*")
        if path.is_file() and path.suffix in suffixes
    }
    assert len(needed) > 100
    assert not needed - names
    tops = {name.partition("/")[0] for name in names}
    assert {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"} <= tops
    assert not tops & {"build", "dist", ".cache", ".venv", "tests", "benchmarks"}
    assert not [name for name in names if re.search(r"\.(so|o|a|pyc)(\.|$)", name)]


@pytest.mark.timeout(1800)
def test_the_sdist_builds_a_package_that_streams(sdist: Path, tmp_path: Path) -> None:
    pytest.importorskip("pybind11")
    environment = dict(os.environ)
    if launcher := shutil.which("ccache"):
        environment |= {f"CMAKE_{kind}_COMPILER_LAUNCHER": launcher for kind in ("C", "CXX")}
    # Where `make` compiled the same sources, ccache knows them: paths count from the tree.
    environment |= {"TMPDIR": str(tmp_path), "CCACHE_BASEDIR": str(tmp_path)}
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--no-build-isolation", "--config-settings=build-dir=build/python"]
    subprocess.run([*command, "--target", str(site), str(sdist)], check=True, env=environment)
    smoke = ROOT / "scripts" / "wheels" / "smoke.py"
    done = subprocess.run(
        [sys.executable, str(smoke)],
        check=True,
        env=environment | {"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert str(site) in done.stdout, "another copy was tried"
    assert "smoke test passed" in done.stdout

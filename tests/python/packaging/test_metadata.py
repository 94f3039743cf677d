"""Section 5: names, versions and extras that consumers' requirements ask for."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tarfile
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
    assert {re.split(r"[<>=!~ ]", r)[0] for r in requirements} == {"torch", "numpy", "humanize"}


@pytest.mark.parametrize("kind", KINDS)
def test_siblings_pull_the_extra_of_this_version(kind: str) -> None:
    text = (ROOT / "packages" / f"runai-model-streamer-{kind}" / "pyproject.toml").read_text()
    assert f'name = "runai-model-streamer-{kind}"' in text
    assert f'version = "{version()}"' in text
    assert f'"runai-model-streamer[{kind}]=={version()}"' in text


@pytest.mark.parametrize("kind", KINDS)
def test_siblings_build_and_have_the_import_name(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = ROOT / "packages" / f"runai-model-streamer-{kind}"
    copy = tmp_path / "source"
    import shutil

    shutil.copytree(source, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    assert f"runai_model_streamer_{kind}/__init__.py" in names
    assert f"Requires-Dist: runai-model-streamer[{kind}]=={version()}" in text


def test_the_sdist_has_the_sources_and_nothing_that_was_built(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    suffixes = {".cc", ".c", ".h", ".in", ".map", ".py", ".pyi", ".cmake", ".txt", ".typed"}
    needed = {
        str(path.relative_to(ROOT))
        for folder in ("cpp", "cmake", "python")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in suffixes
    }
    assert len(needed) > 100
    assert not needed - names
    tops = {name.partition("/")[0] for name in names}
    assert {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"} <= tops
    assert not tops & {"build", "dist", ".cache", ".venv", "tests", "benchmarks"}
    assert not [name for name in names if re.search(r"\.(so|o|a|pyc)(\.|$)", name)]

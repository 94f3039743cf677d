"""Prepares the consumers: `python -m tests.consumers.prepare [NAME...]`.

Each consumer gets a virtual environment in .cache/consumers that sees the packages of this one
(torch, and the package under test), the Python files of its published wheel, and the light ones of
its dependencies. Nothing of it is compiled, needs a GPU, or is committed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "pyproject.toml"
CACHE = ROOT / ".cache" / "consumers"
STANDINS = Path(__file__).resolve().parent / "standins"

# Wheels of the consumers are for these; their .py files are for every platform.
PLATFORMS = [
    "any",
    "manylinux1_x86_64",
    "manylinux2014_x86_64",
    *(f"manylinux_2_{minor}_x86_64" for minor in (27, 28, 31, 34, 35)),
]


@dataclass(frozen=True)
class Consumer:
    package: str
    version: str
    transformers: str
    plugins: tuple[str, ...] = ()  # requirements that are unpacked beside it

    @property
    def name(self) -> str:
        return f"{self.package}-{self.version}"

    @property
    def directory(self) -> Path:
        return CACHE / self.name

    @property
    def python(self) -> Path:
        return self.directory / "venv" / "bin" / "python"


CONSUMERS = {
    consumer.name: consumer
    for consumer in (
        Consumer("vllm", "0.33.0", "transformers>=5.16.1,<5.21", ("modelexpress==0.7.0",)),
        Consumer("vllm", "0.19.1", "transformers>=4.56,<5"),
        Consumer("vllm", "0.11.2", "transformers>=4.56,<5"),
        Consumer("sglang", "0.5.23", "transformers>=5.16.1,<5.21"),
        Consumer("sglang", "0.5.10", "transformers>=5.3,<5.4"),
    )
}


def _pip(python: Path | str, *arguments: str) -> None:
    # Shown only when it fails: it complains of all that the consumers' metadata ask for beyond.
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def _unpack(requirement: str, download: Path, target: Path) -> None:
    """The Python files of a published wheel."""
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    _pip(
        sys.executable,
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.12",
        *platforms,
        f"--dest={download}",
        requirement,
    )
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        wanted = [
            info
            for info in archive.infolist()
            if not info.filename.endswith(".so") and info.file_size < 4 << 20
        ]
        archive.extractall(target, wanted)
    wheel.unlink()  # hundreds of megabytes of kernels


def _make_tree(consumer: Consumer, target: Path) -> None:
    for requirement in (f"{consumer.package}=={consumer.version}", *consumer.plugins):
        _unpack(requirement, consumer.directory / "wheel", target)
    if consumer.package == "vllm":
        # By this suffix it knows that it runs on a CPU.
        (metadata,) = target.glob("vllm-*.dist-info/METADATA")
        text = metadata.read_text()
        version = f"\nVersion: {consumer.version}"
        metadata.write_text(text.replace(version + "\n", version + "+cpu\n", 1))


def _groups() -> str:
    """The groups of pyproject.toml for consumers, as they are written there."""
    found: list[str] = re.findall(r"^consumers[^]]*\]", PROJECT.read_text(), re.MULTILINE)
    assert len(found) == 2
    return "\n".join(found)


def prepare(consumer: Consumer) -> None:
    """Does what is missing. Takes a minute and some 100 MB per consumer."""
    done = consumer.directory / ".complete"
    stamp = "\n".join((_groups(), consumer.transformers, *consumer.plugins))
    if done.exists() and done.read_text() == stamp:
        return
    print(f"preparing {consumer.name}", flush=True)
    consumer.directory.mkdir(parents=True, exist_ok=True)
    tree = consumer.directory / "tree"
    if not tree.exists():
        _make_tree(consumer, tree.with_suffix(".partial"))
        tree.with_suffix(".partial").rename(tree)
    venv.create(consumer.directory / "venv", with_pip=True)
    (packages,) = (consumer.directory / "venv" / "lib").glob("python*/site-packages")
    # Ours last: what the consumer needs in another version wins. torch is never another one.
    (packages / "zz_consumer.pth").write_text(
        f"{tree}\n{STANDINS}\n{sysconfig.get_path('purelib')}\n"
        "import _anything; _anything.install()\n"
    )
    # By the pip of this environment: that of a new one may know no dependency groups.
    install = ("--python", str(consumer.python), "install")
    _pip(sys.executable, *install, "--no-deps", "--group", f"{PROJECT}:consumers-no-deps")
    _pip(sys.executable, *install, "--group", f"{PROJECT}:consumers", consumer.transformers)
    done.write_text(stamp)


def main() -> None:
    for name in sys.argv[1:] or CONSUMERS:
        prepare(CONSUMERS[name])


if __name__ == "__main__":
    main()

"""Checks a wheel: `check.py WHEEL`.

Its size, its tag, the licences in it, and what its libraries export and need.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 10 << 20  # bytes of a wheel
NEWEST_GLIBC = (2, 28)
# Of the project, and words of those of the code that is linked statically or comes from headers.
LICENSES = {
    "LICENSE": "Apache License",
    "openssl.txt": "Apache License",
    "curl.txt": "Daniel Stenberg",
    "libstdc++.txt": "GCC RUNTIME LIBRARY EXCEPTION",
    "pybind11.txt": "Wenzel Jakob",
}


def check_contents(wheel: Path) -> None:
    assert wheel.stat().st_size < LIMIT, f"{wheel.stat().st_size} bytes"
    tags = re.findall(r"manylinux_(\d+)_(\d+)_", wheel.name)
    assert tags, f"{wheel.name} is no manylinux wheel"
    assert min((int(a), int(b)) for a, b in tags) <= NEWEST_GLIBC, wheel.name
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
        (licenses,) = Path(directory).glob("*.dist-info/licenses")
        for name, words in LICENSES.items():
            assert words.lower() in (licenses / name).read_text().lower(), name
        package = Path(directory) / "runai_model_streamer"
        library = package / "libstreamer" / "lib" / "libstreamer.so"
        check = ROOT / "tests" / "abi" / "check_exports.py"
        subprocess.run([sys.executable, str(check), str(library), "--static"], check=True)
        (native,) = package.glob("_native*.so")
        exported = subprocess.run(
            ["nm", "-D", "--defined-only", "-C", str(native)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        names = {line.split(maxsplit=2)[2] for line in exported.splitlines()}
        assert names == {"PyInit__native"}, names
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    check_contents(Path(sys.argv[1]))

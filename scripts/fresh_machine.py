"""`make test` on a machine that has nothing: `python3 -m scripts.fresh_machine RELEASE ROOT`.

Makes a bare Debian or Ubuntu in the directory ROOT by debootstrap, unless it is there, clones the
last commit of this repository into it, and runs `make test` there, in namespaces of its own. Needs
root and debootstrap.

    python3 -m scripts.fresh_machine bookworm /var/tmp/bookworm
    python3 -m scripts.fresh_machine noble /var/tmp/noble --unprivileged
    python3 -m scripts.fresh_machine bookworm /var/tmp/bookworm --user
    python3 -m scripts.fresh_machine bookworm /var/tmp/bookworm -- make test-cpp

The root gets the certificate authorities of this machine. Its processes get nothing of the
environment but proxies and the settings of pip and npm. A proxy therefore works as it does here.
Without the keyring of the distribution, debootstrap needs --mirror, and checks no signatures.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# The packages that README.md asks for; the rest is installed by make.
PACKAGES = ["ca-certificates", "gcc", "git", "make", "python3"]
# The facts of a release that debootstrap needs: its components, and its script, which an older
# debootstrap lacks under the name of the release.
RELEASES = {"bookworm": ("main", "sid"), "noble": ("main,universe", "gutsy")}
SCRIPTS = Path("/usr/share/debootstrap/scripts")
# Docker's defaults lack these, and more that no test needs.
WITHHELD = ["sys_admin", "net_admin", "sys_ptrace", "sys_resource", "sys_nice", "ipc_lock"]
USER = "someone"
AUTHORITIES = Path("usr/local/share/ca-certificates")
# Installers write it, debootstrap does not.
HOSTS = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"
PASSED_ON = re.compile(
    r"PIP_(CERT|INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT)|npm_config_.*|CI|STREAMER_REQUIRE_SERVERS"
    r"|(https?|no)_proxy|(HTTPS?|NO)_PROXY|CMAKE_BUILD_PARALLEL_LEVEL"
)


def environment(ours: Mapping[str, str], home: str) -> dict[str, str]:
    """That of a process in the root."""
    passed = {name: value for name, value in ours.items() if PASSED_ON.fullmatch(name)}
    return passed | {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": home,
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        # Node.js has authorities of its own.
        "NODE_EXTRA_CA_CERTS": "/etc/ssl/certs/ca-certificates.crt",
    }


def inside(root: Path, *command: str, cwd: str = "/") -> list[str]:
    """The command in the root, a mount point of namespaces of its own, which end with it."""
    script = (
        'set -eu; root=$1 cwd=$2; shift 2; mount --bind "$root" "$root"; cd "$root"; '
        "mount -t proc proc proc; mount -t sysfs -o ro sysfs sys; "
        "mount --rbind /dev dev; "
        'exec chroot . sh -c \'cd "$0" && exec "$@"\' "$cwd" "$@"'
    )
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private"]
    return [*namespaces, "sh", "-c", script, "sh", str(root), cwd, *command]


def make_root(release: str, root: Path, mirror: str | None) -> None:
    """Makes the root, or takes one that is complete."""
    if (root / "usr/bin/make").exists():
        return
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    components, script = RELEASES[release]
    command += [f"--components={components}", release, str(root), mirror or ""]
    subprocess.run([*command, str(SCRIPTS / script)], check=True)


def prepare(root: Path, user: str, place: str, run: dict[str, str]) -> None:
    """The names of the machine, the certificate authorities, the user, and the clone."""
    (root / "etc/hosts").write_text(HOSTS.format(name=socket.gethostname()))
    if (Path("/") / AUTHORITIES).is_dir():
        shutil.copytree(Path("/") / AUTHORITIES, root / AUTHORITIES, dirs_exist_ok=True)
        command = inside(root, "update-ca-certificates")
        subprocess.run(command, check=True, env=run, stdout=subprocess.DEVNULL)
    if user != "root" and not (root / "home" / user).exists():
        subprocess.run(inside(root, "useradd", "--create-home", user), check=True, env=run)
    clone = root / place.lstrip("/")
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", f"file://{REPOSITORY}", str(clone)], check=True)
    subprocess.run(inside(root, "chown", "-R", user, place), check=True, env=run)


def install(root: Path, place: str, run: dict[str, str]) -> None:
    """The packages that an ordinary user without sudo must ask for."""
    script = "scripts/install_system_packages.sh scripts/apt-build.txt scripts/apt-test.txt"
    subprocess.run(inside(root, "sh", "-c", script, cwd=place), check=True, env=run)


def command_of(options: argparse.Namespace, command: Sequence[str]) -> list[str]:
    """What is run in the root, with what takes rights away before it."""
    if options.user:
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *command]
    if options.unprivileged:
        dropped = ",".join(f"-{name}" for name in WITHHELD)
        return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command]
    return list(command)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m scripts.fresh_machine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("release", choices=RELEASES)
    parser.add_argument("root", type=Path, help="a directory; it is kept")
    parser.add_argument("--mirror", help="of the distribution")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--user", action="store_true", help="as an ordinary user without sudo")
    who.add_argument("--unprivileged", action="store_true", help="as in a container's default")
    parser.epilog = "What follows -- is run instead of make test."
    return parser


def main() -> int:
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_args(arguments[:end])
    if os.geteuid() != 0:
        sys.exit("debootstrap, namespaces and chroot need root")
    root = options.root.resolve()
    user, home = (USER, f"/home/{USER}") if options.user else ("root", "/root")
    place = f"{home}/model-streamer"
    run = environment(os.environ, home)
    make_root(options.release, root, options.mirror)
    prepare(root, user, place, run)
    if options.user:
        install(root, place, run)
    command = command_of(options, arguments[end + 1 :] or ["make", "test"])
    command = inside(root, *command, cwd=place)
    return subprocess.run(command, check=False, env=run, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())

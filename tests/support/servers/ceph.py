"""Ceph's RADOS gateway: a real S3 server that verifies signatures. Needs Debian 12 packages."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

from . import debian
from .process import Server, free_port
from .tls import Certificate

ACCESS_KEY = "TESTACCESSKEY0000001"
SECRET_KEY = "testsecretkey000000000000000000000000001"
OTHER_ACCESS_KEY = "OTHERACCESSKEY000002"
OTHER_SECRET_KEY = "othersecretkey00000000000000000000000002"


class Ceph(Server):
    """A monitor, one OSD in memory and a gateway at `url` (virtual hosts: *.s3.localhost), and at
    `tls_url` if there is a certificate. With `sts`, AssumeRole of arn:aws:iam:::role/r gives
    session tokens (and every refusal becomes AccessDenied).
    """

    def __init__(
        self, certificate: Certificate | None = None, sts: bool = False, megabytes: int = 2048
    ) -> None:
        super().__init__()
        self.certificate, self.sts, self.megabytes = certificate, sts, megabytes
        self.port, self.tls_port = free_port(), free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def virtual_url(self) -> str:
        """The endpoint under which buckets are host names."""
        return f"http://s3.localhost:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    def start(self) -> None:
        root = debian.unpack("ceph", "radosgw", "ceph-mon", "ceph-osd", "ceph-common")
        self._bin = root / "usr/bin"
        self._env = {
            **os.environ,
            "LD_LIBRARY_PATH": debian.library_path(root),
            "PYTHONPATH": str(root / "usr/lib/python3/dist-packages"),
            "CEPH_CONF": str(self.directory / "ceph.conf"),
        }
        for directory in ("mon", "osd", "rgw", "logs"):
            (self.directory / directory).mkdir()
        monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
        fsid = str(uuid.uuid4())
        (self.directory / "ceph.conf").write_text(self._config(root, monitor, fsid))

        keyring = str(self.directory / "keyring")
        allow = [part for what in ("mon", "osd", "mgr") for part in ("--cap", what, "allow *")]
        osd = ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"]
        tool = "ceph-authtool"
        create, add = [tool, "--create-keyring"], [tool]
        # The monitor makes its own keyring from this one; its directory must be empty until then.
        self._run(*create, keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run(*add, keyring, "--gen-key", "-n", "client.admin", *allow)
        self._run(*add, keyring, "--gen-key", "-n", "client.rgw", *allow)
        self._run(*add, keyring, "--gen-key", "-n", "osd.0", *osd)
        monmap = str(self.directory / "monmap")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, monmap)
        mkfs = ["--mkfs", "--monmap", monmap, "--keyring", keyring]
        self._run("ceph-mon", "-i", "a", *mkfs)
        self._daemon("ceph-mon", "-f", "-i", "a")
        self.wait_until(lambda: self._ceph("-s")[0] == 0, "the monitor of Ceph")
        disk = str(uuid.uuid4())
        self._ceph("osd", "new", disk)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._daemon("ceph-osd", "-f", "-i", "0")
        self.wait_until(lambda: "1 up" in self._ceph("osd", "stat")[1], "the OSD of Ceph")
        self._daemon("radosgw", "-f", "-n", "client.rgw")
        self.wait_for_port(self.port, "radosgw")
        self._user("test", ACCESS_KEY, SECRET_KEY)
        self._user("other", OTHER_ACCESS_KEY, OTHER_SECRET_KEY)
        if self.sts:
            trust = (
                '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":'
                '["arn:aws:iam:::user/test"]},"Action":["sts:AssumeRole"]}]}'
            )
            policy = (
                '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],'
                '"Resource":["arn:aws:s3:::*"]}]}'
            )
            admin = ["radosgw-admin", "-n", "client.rgw"]
            name = "--role-name=r"
            document = f"--assume-role-policy-doc={trust}"
            self._run(*admin, "role", "create", name, "--path=/", document)
            document = f"--policy-doc={policy}"
            self._run(*admin, "role-policy", "put", name, "--policy-name=p", document)

    def client(self, tls: bool = False, **options):
        """A boto3 client of the test user."""
        import boto3

        options.setdefault("aws_access_key_id", ACCESS_KEY)
        options.setdefault("aws_secret_access_key", SECRET_KEY)
        return boto3.client(
            "s3",
            endpoint_url=self.tls_url if tls else self.url,
            region_name="us-east-1",
            **options,
        )

    def assume_role(self) -> dict[str, str]:
        """Temporary credentials, as environment variables."""
        import boto3

        sts = boto3.client(
            "sts",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        answer = sts.assume_role(RoleArn="arn:aws:iam:::role/r", RoleSessionName="session")
        found = answer["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }

    def _user(self, name: str, access_key: str, secret_key: str) -> None:
        admin = ["radosgw-admin", "-n", "client.rgw", "user", "create", f"--uid={name}"]
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        self._run(*admin, f"--display-name={name}", *keys, "--caps=roles=*;user-policy=*")

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._bin / program), *arguments]
        done = subprocess.run(
            command, env=self._env, cwd=self.directory, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr[-1000:]}")
        return done.stdout

    def _ceph(self, *arguments: str) -> tuple[int, str]:
        # The script's own interpreter: the extension modules are built for the system's Python.
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        command = [python, str(self._bin / "ceph"), "--connect-timeout", "20", *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    def _daemon(self, program: str, *arguments: str) -> None:
        self.spawn([str(self._bin / program), *arguments], env=self._env)

    def _config(self, root, monitor: str, fsid: str) -> str:
        libraries = next(root.glob("usr/lib/*/rados-classes")).parent
        frontend = f"beast endpoint=127.0.0.1:{self.port}"
        if self.certificate:
            frontend += f" ssl_endpoint=127.0.0.1:{self.tls_port}"
            frontend += f" ssl_certificate={self.certificate.chain}"
            frontend += f" ssl_private_key={self.certificate.key}"
        return f"""[global]
fsid = {fsid}
mon host = {monitor}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {self.directory}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = -1
osd full ratio = 0.97
paxos propose interval = 0.02
paxos min wait = 0.02
osd objectstore = memstore
memstore device bytes = {self.megabytes << 20}
osd class dir = {libraries}/rados-classes
erasure code dir = {libraries}/ceph/erasure-code
plugin dir = {libraries}/ceph
run dir = {self.directory}
admin socket = {self.directory}/$name.asok
log file = {self.directory}/logs/$name.log
pid file = {self.directory}/$name.pid
crash dir = {self.directory}
heartbeat file =
[mon.a]
keyring = {self.directory}/mon/keyring
mon data = {self.directory}/mon
[osd.0]
osd data = {self.directory}/osd
osd journal = {self.directory}/osd/journal
[client.rgw]
rgw data = {self.directory}/rgw
rgw dns name = s3.localhost
rgw thread pool size = 64
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable usage log = false
rgw enable ops log = false
rgw relaxed s3 bucket names = true
rgw s3 auth use sts = {str(self.sts).lower()}
rgw sts key = abcdefghijklmnop
rgw frontends = {frontend}
"""

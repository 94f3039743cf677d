"""A certificate authority for tests, and certificates that are right or wrong in one way."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES = [
    "localhost",
    "*.localhost",
    "s3.localhost",
    "*.s3.localhost",
    "*.blob.localhost",
    "*.storage.localhost",
]
ADDRESSES = ["127.0.0.1", "10.231.0.1", "10.231.0.2"]


@dataclasses.dataclass(frozen=True)
class Certificate:
    chain: pathlib.Path  # the certificate and its authority's
    key: pathlib.Path


class Authority:
    """A CA whose files lie in `directory`; `ca` is the PEM file that clients have to trust."""

    def __init__(self, directory: pathlib.Path, called: str = "Model Streamer test CA") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, called)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        builder = builder.public_key(self._key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=2))
        builder = builder.not_valid_after(now + datetime.timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        label: str,
        names: list[str] | None = None,
        addresses: list[str] | None = None,
        expired: bool = False,
    ) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = NAMES if names is None else names
        addresses = ADDRESSES if addresses is None else addresses
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(text)) for text in addresses]
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject)
        builder = builder.issuer_name(self._certificate.subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - 2 * day)
        builder = builder.not_valid_after(now - day if expired else now + 20 * day)
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        certificate = builder.sign(self._key, hashes.SHA256())
        out = Certificate(self.directory / f"{label}.pem", self.directory / f"{label}.key")
        pem = serialization.Encoding.PEM
        out.chain.write_bytes(certificate.public_bytes(pem) + self._certificate.public_bytes(pem))
        out.key.write_bytes(
            key.private_bytes(
                pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        return out

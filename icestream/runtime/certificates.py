"""A certificate authority of a deployment's own, which signs what its servers show to their clients."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from icestream.errors import Misconfigured

AUTHORITY_LIFETIME = timedelta(days=3650)
CERTIFICATE_LIFETIME = timedelta(days=825)
"""The longest that clients of all platforms accept."""

# For machines whose clocks are behind ours.
_BACKDATED = timedelta(hours=1)
# A DNS name; the first label may be a wildcard.
_HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*")


class Issued(NamedTuple):
    """A server's certificate and the private key to it, each as PEM."""

    certificate_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """Signs certificates; clients trust those by trusting `certificate_pem`."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    """Whoever has it can pass for any of our servers."""

    @classmethod
    def create(cls, name: str = "IceStream CA") -> Self:
        """Make a new authority.

        Args:
            name: What certificates say of who signed them.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = _key_usage(key_cert_sign=True, crl_sign=True)
        subject = _name(name)
        builder = (
            _certificate(subject, subject, key.public_key(), AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_key_identifier(key), critical=False)
        )
        return cls(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))

    def issue(self, name: str, hosts: Sequence[str]) -> Issued:
        """Make a key pair for a server and sign its certificate.

        Args:
            name: Of the server, for people.
            hosts: Host names and IP addresses that clients reach it by; `*.` may stand for the first label.

        Raises:
            Misconfigured: There is no host, or one is neither a host name nor an IP address.
        """
        if not hosts:
            raise Misconfigured(f"a certificate for {name} needs a host that clients reach it by")
        authority = x509.load_pem_x509_certificate(self.certificate_pem)
        authority_key = serialization.load_pem_private_key(self.key_pem, password=None)
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        # Servers of one NATS cluster are clients of each other.
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _certificate(_name(name), authority.subject, key.public_key(), CERTIFICATE_LIFETIME)
            .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(_key_identifier(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        return Issued(_pem(builder.sign(authority_key, hashes.SHA256())), _key_pem(key))


def expires_at(certificate_pem: bytes) -> datetime:
    """Until when a certificate is good."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now - _BACKDATED + lifetime)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise Misconfigured(
                f"{host!r} is neither a host name, for example nats.example.org, nor an IP address"
            ) from None
        return x509.DNSName(host)


def _key_identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

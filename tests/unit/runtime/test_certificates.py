import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from icestream.errors import Misconfigured
from icestream.runtime.certificates import CertificateAuthority, Issued


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create()


@pytest.mark.parametrize("host", ["nats", "nats.example.org", "127.0.0.1", "::1", "a.pods.example.org"])
def test_a_client_that_trusts_the_authority_accepts_every_host_of_a_certificate(
    host: str, authority: CertificateAuthority, tmp_path: Path
) -> None:
    hosts = ["nats", "nats.example.org", "127.0.0.1", "::1", "*.pods.example.org"]
    issued = authority.issue("nats", hosts)

    _shake_hands(issued, tmp_path, trusted=authority, host=host)


def test_a_host_that_the_certificate_does_not_name_is_refused(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    issued = authority.issue("nats", ["nats"])

    with pytest.raises(ssl.SSLCertVerificationError, match="router"):
        _shake_hands(issued, tmp_path, trusted=authority, host="router")


def test_a_certificate_of_another_authority_is_refused(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    # Of the same name: what counts is the key.
    issued = CertificateAuthority.create().issue("nats", ["nats"])

    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(issued, tmp_path, trusted=authority, host="nats")


def test_every_certificate_has_a_key_of_its_own(authority: CertificateAuthority) -> None:
    assert authority.issue("nats", ["nats"]).key_pem != authority.issue("nats", ["nats"]).key_pem


@pytest.mark.parametrize("host", ["", "two words", "https://nats", "nats:4222", "-nats", "näts"])
def test_what_is_no_host_is_refused(host: str, authority: CertificateAuthority) -> None:
    with pytest.raises(Misconfigured, match="neither a host name"):
        authority.issue("nats", [host])


def test_a_certificate_without_a_host_is_refused(authority: CertificateAuthority) -> None:
    with pytest.raises(Misconfigured, match="needs a host"):
        authority.issue("nats", [])


def test_the_authority_does_not_show_its_key(authority: CertificateAuthority) -> None:
    assert "PRIVATE" not in repr(authority)


def _shake_hands(issued: Issued, directory: Path, *, trusted: CertificateAuthority, host: str) -> None:
    certificate, key = directory / "server.crt", directory / "server.key"
    certificate.write_bytes(issued.certificate_pem)
    key.write_bytes(issued.key_pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)
    client_context = ssl.create_default_context(cadata=trusted.certificate_pem.decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in _turns(client, server):
        pass


def _turns(*sides: ssl.SSLObject) -> Iterator[None]:
    """Let each side go on until both have what they want."""
    waiting = list(sides)
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
        yield

"""Real servers and clients on loopback, with and without TLS."""

import asyncio
import json
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from icestream.errors import Misconfigured
from icestream.runtime import certificates
from icestream.runtime.certificates import CertificateAuthority, expires_at
from icestream.runtime.grpc_certificates import CertificateFiles, watched_certificate
from icestream.runtime.local_stack import TOOL_CACHE
from tests.unit.runtime.grpc_cases import (
    LOOPBACK,
    SERVICE,
    ToyService,
    bearer,
    call,
    call_stream,
    channel_to,
    served,
    write_certificate,
    write_tokens,
)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create()


@pytest.fixture
def certificate(authority: CertificateAuthority, tmp_path: Path) -> CertificateFiles:
    return write_certificate(authority, tmp_path)


async def failure_of(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(channel)
    return failed.value


async def test_without_a_certificate_there_is_no_tls() -> None:
    async with served(ToyService()) as address, channel_to(address) as channel:
        assert await call(channel) == "toy"


async def test_a_client_that_trusts_the_authority_gets_in(
    authority: CertificateAuthority, certificate: CertificateFiles
) -> None:
    async with (
        served(ToyService(), certificate=certificate) as address,
        channel_to(address, authority.certificate_pem) as channel,
    ):
        assert await call(channel) == "toy"
        assert await call_stream(channel) == ["toy-0", "toy-1", "toy-2"]


async def test_a_client_without_tls_stays_outside(certificate: CertificateFiles) -> None:
    service = ToyService()
    async with served(service, certificate=certificate) as address, channel_to(address) as channel:
        assert (await failure_of(channel)).code() is grpc.StatusCode.UNAVAILABLE
    assert service.n_calls == 0


async def test_a_client_of_another_authority_trusts_nobody(certificate: CertificateFiles) -> None:
    other = CertificateAuthority.create().certificate_pem
    async with (
        served(ToyService(), certificate=certificate) as address,
        channel_to(address, other) as channel,
    ):
        failure = await failure_of(channel)
    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in (failure.details() or "")


async def test_a_certificate_of_another_host_is_not_trusted(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    certificate = write_certificate(authority, tmp_path, hosts=["router.example.org"])
    async with (
        served(ToyService(), certificate=certificate) as address,
        channel_to(address, authority.certificate_pem) as channel,
    ):
        assert (await failure_of(channel)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_is_shown_to_the_next_client(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    renewed = CertificateAuthority.create()
    async with served(ToyService(), certificate=certificate) as address:
        write_certificate(renewed, tmp_path)
        with capture_logs() as logs:
            async with channel_to(address, renewed.certificate_pem) as channel:
                assert await call(channel) == "toy"
    assert [entry["event"] for entry in logs] == ["a changed certificate is in use"]


async def test_a_connection_outlives_the_certificate_that_it_began_with(
    authority: CertificateAuthority, certificate: CertificateFiles, tmp_path: Path
) -> None:
    async with (
        served(ToyService(), certificate=certificate) as address,
        channel_to(address, authority.certificate_pem) as channel,
    ):
        assert await call(channel) == "toy"
        write_certificate(CertificateAuthority.create(), tmp_path)
        assert await call(channel) == "toy"


async def test_a_broken_certificate_leaves_the_former_one_in_use(
    authority: CertificateAuthority, certificate: CertificateFiles
) -> None:
    async with served(ToyService(), certificate=certificate) as address:
        certificate.certificate.write_text("nothing of use")
        with capture_logs() as logs:
            for _ in range(2):
                async with channel_to(address, authority.certificate_pem) as channel:
                    assert await call(channel) == "toy"
    [entry] = logs
    assert entry["log_level"] == "error"
    assert str(certificate.certificate) in entry["problem"]


def test_until_when_the_certificate_is_good_is_a_metric(
    authority: CertificateAuthority, certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    assert watched_certificate(certificate, registry) is certificate

    def shown() -> float | None:
        return registry.get_sample_value("icestream_grpc_certificate_expiry_timestamp_seconds")

    assert shown() == expires_at(certificate.certificate.read_bytes()).timestamp()
    monkeypatch.setattr(certificates, "CERTIFICATE_LIFETIME", timedelta(minutes=1))
    write_certificate(authority, certificate.certificate.parent)
    assert shown() == pytest.approx(time.time() - 3540, abs=60)
    certificate.certificate.write_text("nothing of use")
    assert shown() == 0
    certificate.certificate.unlink()
    assert shown() == 0


def test_without_tls_there_is_no_such_metric() -> None:
    registry = CollectorRegistry()
    assert watched_certificate(None, registry) is None
    assert list(registry.collect()) == []


def encrypted(key_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, password=None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize("broken", ["missing", "garbage", "another key", "encrypted key"])
async def test_a_certificate_that_cannot_be_used_is_said_at_the_start(
    authority: CertificateAuthority, certificate: CertificateFiles, broken: str
) -> None:
    match broken:
        case "missing":
            certificate.key.unlink()
        case "garbage":
            certificate.certificate.write_text("nothing of use")
        case "encrypted key":
            certificate.key.write_bytes(encrypted(certificate.key.read_bytes()))
        case _:
            certificate.key.write_bytes(authority.issue("other", [LOOPBACK]).key_pem)
    with pytest.raises(Misconfigured, match=r"tls\.crt and the key .*tls\.key: .*expected PEM files"):
        async with served(ToyService(), certificate=certificate):
            pass


@pytest.mark.parametrize(
    ("host", "has_certificate", "is_warned"),
    [("0.0.0.0", False, True), ("0.0.0.0", True, False), ("127.0.0.1", False, False)],
)
async def test_tokens_that_could_be_read_on_their_way_are_warned_about(
    certificate: CertificateFiles, tmp_path: Path, host: str, has_certificate: bool, is_warned: bool
) -> None:
    tokens = write_tokens(tmp_path / "tokens", alerts="right")
    with capture_logs() as logs:
        async with served(
            ToyService(), certificate=certificate if has_certificate else None, tokens=tokens, host=host
        ):
            pass
    assert [entry["log_level"] for entry in logs] == ["warning"] * is_warned


@pytest.fixture
def grpcurl() -> str:
    path = shutil.which("grpcurl") or shutil.which("grpcurl", path=str(TOOL_CACHE))
    if path is None:
        pytest.skip("no grpcurl program; `make tools` builds it")
    return path


async def run(*command: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )


async def test_grpcurl_calls_with_the_authoritys_certificate_and_a_header(
    authority: CertificateAuthority, certificate: CertificateFiles, tmp_path: Path, grpcurl: str
) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.certificate_pem)
    tokens = write_tokens(tmp_path / "tokens", alerts="right")
    name, header = f"{SERVICE}/Reconstruct", f"authorization: {bearer('right')[0][1]}"
    async with served(ToyService(), certificate=certificate, tokens=tokens) as address:
        # It asks the reflection service first, for which the header is needed as well.
        answered = await run(
            grpcurl, "-cacert", str(ca), "-H", header, "-d", '{"model": "toy"}', address, name
        )
        refused = await run(grpcurl, "-cacert", str(ca), "-d", '{"model": "toy"}', address, name)
        health = await run(grpcurl, "-cacert", str(ca), "-H", header, address, "grpc.health.v1.Health/Check")
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout) == {"reconstruction": {"model": "toy"}}
    assert refused.returncode != 0
    assert "authorization: Bearer TOKEN" in refused.stderr
    assert json.loads(health.stdout) == {"status": "SERVING"}

from pathlib import Path

from icestream.runtime.certificates import CertificateAuthority
from icestream.runtime.endpoints import free_ports
from icestream.runtime.grpc_health import is_serving
from tests.unit.runtime.grpc_cases import (
    LOOPBACK,
    ToyService,
    channel_to,
    served,
    write_certificate,
    write_tokens,
)


async def test_a_server_with_tls_and_tokens_says_that_it_serves(tmp_path: Path) -> None:
    authority = CertificateAuthority.create()
    certificate = write_certificate(authority, tmp_path)
    tokens = write_tokens(tmp_path / "tokens", alerts="right")
    async with served(ToyService(), certificate=certificate, tokens=tokens) as address:
        async with channel_to(address, authority.certificate_pem) as channel:
            assert await is_serving(channel)
        async with channel_to(address) as channel:
            assert not await is_serving(channel)


async def test_where_nobody_listens_nobody_serves() -> None:
    [port] = free_ports(1)
    async with channel_to(f"{LOOPBACK}:{port}") as channel:
        assert not await is_serving(channel)

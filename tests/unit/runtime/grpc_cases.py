"""A small gRPC service on a real port, and what its clients need to get in."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from icestream.runtime.certificates import CertificateAuthority
from icestream.runtime.grpc_certificates import CertificateFiles
from icestream.runtime.grpc_server import serve_grpc
from icestream.runtime.grpc_tokens import token_gate
from icestream.runtime.tokens import token_line
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc

LOOPBACK = "127.0.0.1"
MAX_MESSAGE_BYTES = 1 << 16
SERVICE = "icestream.v1.ReconstructionService"
REQUEST = reconstruction_pb2.ReconstructRequest(model="toy")

Metadata = Sequence[tuple[str, str]]


class ToyService(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """Answers every event with the model's name.

    Attributes:
        n_calls: Calls that came so far.
    """

    def __init__(self) -> None:
        self.n_calls = 0

    async def Reconstruct(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self.n_calls += 1
        return reconstruction_pb2.ReconstructResponse(
            reconstruction=reconstruction_pb2.Reconstruction(model=request.model)
        )

    async def ReconstructStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ARG002, N802
        self.n_calls += 1
        async for request in requests:
            yield reconstruction_pb2.ReconstructStreamResponse(
                reconstruction=reconstruction_pb2.Reconstruction(model=request.model)
            )


def write_tokens(path: Path, **tokens: str) -> Path:
    """A server's token file."""
    path.write_text("".join(token_line(name, token) + "\n" for name, token in tokens.items()))
    return path


def write_certificate(
    authority: CertificateAuthority, directory: Path, hosts: Sequence[str] = (LOOPBACK,)
) -> CertificateFiles:
    """A server's certificate; over the one that was there before, if there was one."""
    issued = authority.issue("toy", hosts)
    files = CertificateFiles(directory / "tls.crt", directory / "tls.key")
    files.certificate.write_bytes(issued.certificate_pem)
    files.key.write_bytes(issued.key_pem)
    return files


@asynccontextmanager
async def served(
    service: ToyService,
    *,
    certificate: CertificateFiles | None = None,
    tokens: Path | None = None,
    registry: CollectorRegistry | None = None,
    host: str = LOOPBACK,
) -> AsyncIterator[str]:
    """Serve it; the address."""
    async with serve_grpc(
        reconstruction_pb2.DESCRIPTOR.services_by_name["ReconstructionService"],
        partial(reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server, service),
        host=host,
        port=0,
        max_message_bytes=MAX_MESSAGE_BYTES,
        grace_s=0.0,
        certificate=certificate,
        gate=token_gate(tokens, registry or CollectorRegistry()),
    ) as port:
        yield f"{LOOPBACK}:{port}"


def channel_to(address: str, ca_pem: bytes | None = None) -> grpc.aio.Channel:
    """A connection that nothing else uses."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if ca_pem is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca_pem), options)


def bearer(token: str) -> Metadata:
    """What a caller sends along."""
    return (("authorization", f"Bearer {token}"),)


async def call(channel: grpc.aio.Channel, metadata: Metadata = (), request: Any = REQUEST) -> str:
    """The model that answers one event."""
    stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
    response = await stub.Reconstruct(request, metadata=metadata, timeout=20)
    return str(response.reconstruction.model)


async def call_stream(channel: grpc.aio.Channel, metadata: Metadata = (), *, n_events: int = 3) -> list[str]:
    """The models that answer a stream of events."""

    async def requests() -> AsyncIterator[Any]:
        for number in range(n_events):
            yield reconstruction_pb2.ReconstructStreamRequest(model=f"toy-{number}")

    stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
    stream = stub.ReconstructStream(requests(), metadata=metadata, timeout=20)
    return [response.reconstruction.model async for response in stream]

"""Serves one gRPC service with health checks and reflection; with TLS and to known callers alone if told to."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from icestream.errors import Misconfigured
from icestream.runtime.grpc_certificates import CertificateFiles
from icestream.runtime.grpc_tokens import TokenGate

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def serve_grpc(
    descriptor: ServiceDescriptor,
    register: Callable[[grpc.aio.Server], None],
    *,
    host: str,
    port: int,
    max_message_bytes: int,
    grace_s: float,
    certificate: CertificateFiles | None = None,
    gate: TokenGate | None = None,
) -> AsyncIterator[int]:
    """Serve, and yield the port; at the end say so to load balancers, then let running calls finish.

    Args:
        descriptor: Of the service.
        register: Adds the service to the server.
        host: Address to listen on.
        port: 0 takes a free one.
        max_message_bytes: Largest message that is accepted.
        grace_s: How long running calls may take at the end.
        certificate: What the server shows to its clients; without it there is no TLS.
        gate: Says who may call; without it anybody.

    Raises:
        Misconfigured: The address or the certificate cannot be used.
    """
    server = grpc.aio.server(
        interceptors=[] if gate is None else [gate], options=_server_options(max_message_bytes)
    )
    register(server)
    name = descriptor.full_name
    health = grpc_health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((name, health_name, reflection.SERVICE_NAME), server)
    bound = _bind(server, f"{host}:{port}", certificate)
    if gate is not None and certificate is None and not _is_loopback(host):
        _log.warning(
            "tokens come in without TLS, readable on their way here; give a certificate, or let only a proxy that "
            "ends TLS reach this address",
            address=f"{host}:{bound}",
        )
    await server.start()
    for served in ("", name):
        await health.set(served, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield bound
    finally:
        await health.enter_graceful_shutdown()
        await server.stop(grace_s)


def _bind(server: grpc.aio.Server, address: str, certificate: CertificateFiles | None) -> int:
    credentials = None if certificate is None else certificate.server_credentials()
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise Misconfigured(f"cannot serve gRPC on {address}: {error}; choose another --grpc-port") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        # With it two servers share a port in silence and get half of the calls each.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]

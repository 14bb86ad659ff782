"""What every service is made of: traces, metrics, health pages, a connection to NATS and a heartbeat."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import structlog
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from icestream.errors import BrokerUnavailable
from icestream.runtime.health import Health, serve_health
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.heartbeats import beating
from icestream.runtime.jetstream.login import logged_in, tls_to
from icestream.runtime.jetstream.topology import Names
from icestream.runtime.metrics import ServiceMetrics
from icestream.runtime.settings import ServiceSettings
from icestream.runtime.tracing import tracing

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServiceFrame:
    """What a service finds in place when its own work begins."""

    names: Names
    connection: Connection
    registry: CollectorRegistry
    """For the service's own metrics."""
    health: Health
    """The service adds its own conditions; it is ready, and `running`, while all of them hold."""
    tracer: Tracer


@asynccontextmanager
async def service_frame(
    service: str,
    settings: ServiceSettings,
    *,
    trace_ratio: float,
    conditions: Sequence[str] = (),
    needs_broker: bool = True,
) -> AsyncIterator[ServiceFrame]:
    """Put the frame together, and take it apart in reverse order.

    Args:
        service: One word, for example `router`.
        settings: Where everything is.
        trace_ratio: Share of root spans that are sampled.
        conditions: Of readiness, beside the connection to NATS; each fails until the service says otherwise.
        needs_broker: Whether the service waits for NATS and ends without it. Otherwise the frame is there at once,
            with a connection that tries until NATS lets it in.

    Raises:
        BrokerUnavailable: NATS does not answer, or does not let us in, and the service needs it.
        Misconfigured: The port of the health pages is taken, or a name, URL or file cannot be used.
    """
    names, registry = Names(settings.prefix), CollectorRegistry()
    metrics = ServiceMetrics(registry, f"icestream-{service}", settings.instance)
    health = Health("nats", *conditions)
    async with AsyncExitStack() as stack:
        traces = stack.enter_context(
            tracing(f"icestream-{service}", settings.instance, settings.otlp_endpoint, ratio=trace_ratio)
        )
        metrics.watch_tracing(traces)
        port = stack.enter_context(
            serve_health(settings.metrics_host, settings.metrics_port, registry, health)
        )
        _log.info("metrics and health are served", host=settings.metrics_host, port=port)
        connection = await stack.enter_async_context(_connected(service, settings, needs_broker=needs_broker))
        metrics.watch_connection(connection)
        health.watch("nats", connection.problem)
        await stack.enter_async_context(
            beating(
                connection,
                names,
                service=service,
                instance=settings.instance,
                version=version("icestream"),
                state=partial(_state, metrics, health),
            )
        )
        yield ServiceFrame(names, connection, registry, health, traces.tracer)


def _connected(
    service: str, settings: ServiceSettings, *, needs_broker: bool
) -> AbstractAsyncContextManager[Connection]:
    ca_setting = settings.where("nats_ca")
    return logged_in(
        settings.nats_url,
        name=settings.instance,
        user=service,
        seed=settings.nats_seed,
        tls=tls_to(settings.nats_url, settings.nats_ca, ca_setting),
        seed_setting=settings.where("nats_seed"),
        ca_setting=ca_setting,
        on_late=None if needs_broker else _warn,
    )


def _warn(error: BrokerUnavailable) -> None:
    _log.warning(str(error), reason=error.reason)


def _state(metrics: ServiceMetrics, health: Health) -> str:
    metrics.heartbeat()
    return "running" if health.is_ready else "waiting"

"""Starts a NATS exporter. A process of its own, so that the broker is watched when everything else is away."""

import asyncio
import sys
from functools import partial

import structlog

from icestream.runtime.lifecycle import run_service
from icestream.runtime.logs import configure_logs
from icestream.runtime.nats_metrics import watch_broker
from icestream.runtime.service import service_frame
from services.nats_exporter.settings import NatsExporterSettings

SERVICE = "nats-exporter"

_log = structlog.get_logger()


def main() -> None:
    """Show metrics until told to stop."""
    settings = NatsExporterSettings.load(sys.argv[1:])
    configure_logs(
        f"icestream-{SERVICE}", settings.instance, level=settings.log_level, log_format=settings.log_format
    )
    run_service(partial(serve, settings))


async def serve(settings: NatsExporterSettings, stop: asyncio.Event) -> None:
    """Show metrics until `stop` is set, also while NATS is away."""
    async with service_frame(SERVICE, settings, trace_ratio=0.0, needs_broker=False) as frame:
        frame.registry.register(watch_broker(settings.monitor_urls, frame.connection))
        _log.info("NATS exporter is up", monitor_urls=settings.monitor_urls)
        await stop.wait()


if __name__ == "__main__":
    main()

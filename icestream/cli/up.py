"""`icestream up`: the local stack, until somebody stops it."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption
from icestream.runtime.endpoints import FILE_NAME, LOOPBACK, Endpoints, Stack
from icestream.runtime.lifecycle import ended_by_signals
from icestream.runtime.local_stack import CHECKOUT, RunningStack, StackOptions, local_stack
from icestream.runtime.logs import configure_logs


def up(
    directory: DirectoryOption = DEFAULT_DIRECTORY,
    port_offset: Annotated[int, typer.Option(min=0, max=15_000, help="Added to every default port.")] = 0,
    model_repository: Annotated[
        Path | None, typer.Option(help="Triton's models; the checkout's by default.", show_default=False)
    ] = None,
    geometry: Annotated[
        Path | None, typer.Option(help="Your own sensor_geometry.csv.", show_default=False)
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="Name of the detector in --geometry.", show_default=False)
    ] = None,
    trace_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of gRPC calls that are traced.")
    ] = 0.01,
    routers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the stream of events.")
    ] = 1,
    scan_workers: Annotated[
        int, typer.Option(min=0, max=64, help="Processes that fit the pixels of sky scans.")
    ] = 2,
) -> None:
    """Start NATS, Triton, routers, a scanner, a recorder, scan workers and perhaps Jaeger; Ctrl-C stops them all."""
    configure_logs("icestream", "up", level="info", log_format="console")
    options = StackOptions(
        directory=directory.resolve(),
        endpoints=Endpoints.shifted(port_offset),
        model_repository=model_repository.resolve() if model_repository else CHECKOUT / "model_repository",
        geometry=geometry.resolve() if geometry else None,
        detector=detector,
        trace_ratio=trace_ratio,
        otlp_endpoint=os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
        n_routers=routers,
        n_scan_workers=scan_workers,
    )
    asyncio.run(_hold(options))


async def _hold(options: StackOptions) -> None:
    with ended_by_signals():
        async with local_stack(options) as stack:
            Stack(os.getpid(), options.endpoints, stack.otlp_endpoint is not None).write(options.directory)
            try:
                Console(stderr=True).print(_table(stack))
                await asyncio.Event().wait()
            finally:
                (options.directory / FILE_NAME).unlink(missing_ok=True)
                Console(stderr=True).print("stopping ...")


def _table(stack: RunningStack) -> Table:
    endpoints = stack.options.endpoints
    table = Table("part", "where", title="IceStream is up; Ctrl-C stops it", title_justify="left")
    table.add_row("events and results (NATS)", endpoints.nats_url)
    table.add_row("ReconstructionService (gRPC)", f"{LOOPBACK}:{endpoints.router_grpc}")
    table.add_row("ScanService (gRPC)", f"{LOOPBACK}:{endpoints.scanner_grpc}")
    table.add_row("RecordService (gRPC)", f"{LOOPBACK}:{endpoints.recorder_grpc}")
    routers = f"http://{LOOPBACK}:{endpoints.router_metrics}/metrics"
    table.add_row("router metrics", routers + _first_of(stack.options.n_routers))
    table.add_row("scanner metrics", f"http://{LOOPBACK}:{endpoints.scanner_metrics}/metrics")
    table.add_row("recorder metrics", f"http://{LOOPBACK}:{endpoints.recorder_metrics}/metrics")
    if stack.options.n_scan_workers:
        workers = f"http://{LOOPBACK}:{endpoints.scan_worker_metrics}/metrics"
        table.add_row("scan worker metrics", workers + _first_of(stack.options.n_scan_workers))
    table.add_row("Triton metrics", f"http://{LOOPBACK}:{endpoints.triton_metrics}/metrics")
    table.add_row("traces", _traces(stack))
    table.add_row("logs", str(stack.options.directory / "logs"))
    return table


def _first_of(n_processes: int) -> str:
    return f" (the first of {n_processes})" if n_processes > 1 else ""


def _traces(stack: RunningStack) -> str:
    if stack.has_jaeger:
        return f"{stack.options.endpoints.jaeger_url} (Jaeger)"
    return (
        stack.otlp_endpoint
        or "off: no jaeger found (`make tools` builds it) and no OTEL_EXPORTER_OTLP_ENDPOINT"
    )

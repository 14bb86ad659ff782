"""`icestream status`: is everything there, and how far is the work."""

import asyncio
from contextlib import AbstractAsyncContextManager

import typer
from nats.js.errors import APIError, NotFoundError
from rich.console import Console
from rich.table import Table

from icestream.cli.access import access
from icestream.cli.roll_call import LISTEN_S, services_heard, services_table
from icestream.cli.target import DEFAULT_DIRECTORY, DirectoryOption, PrefixOption, endpoints_in
from icestream.errors import IceStreamError
from icestream.runtime.endpoints import LOOPBACK, Endpoints, Stack
from icestream.runtime.grpc_health import is_serving
from icestream.runtime.jetstream.connection import Connection
from icestream.runtime.jetstream.scan_topology import Lane, ScanNames, consumer_name
from icestream.runtime.jetstream.topology import (
    DEFAULT_PREFIX,
    RECORDER_CONSUMER,
    ROUTER_CONSUMER,
    Names,
)
from icestream.runtime.triton import TritonModel


def status(directory: DirectoryOption = DEFAULT_DIRECTORY, prefix: PrefixOption = DEFAULT_PREFIX) -> None:
    """Show the parts of the local stack, what the streams hold and which services are heard, wherever they run.

    Exits with 1 where a part of the local stack is missing.
    """
    console = Console()
    if Stack.read(directory) is None:
        console.print(f"no stack was started in {directory}; looking at the default ports")
    is_complete = asyncio.run(_status(endpoints_in(directory), Names(prefix), console))
    if not is_complete:
        raise typer.Exit(1)


async def _status(endpoints: Endpoints, names: Names, console: Console) -> bool:
    parts = Table("part", "where", "state")
    services = {
        "router": endpoints.router_grpc,
        "scanner": endpoints.scanner_grpc,
        "recorder": endpoints.recorder_grpc,
    }
    serve = True
    for service, port in services.items():
        async with access().channel(address := f"{LOOPBACK}:{port}") as channel:
            is_well = await is_serving(channel)
        parts.add_row(service, address, _state(is_well=is_well))
        serve = serve and is_well
    models = await _models(f"{LOOPBACK}:{endpoints.triton_grpc}")
    served = f"serves {', '.join(models)}" if models else None
    parts.add_row("triton", f"{LOOPBACK}:{endpoints.triton_grpc}", served or _state(is_well=False))
    streams = await _streams(endpoints.nats_url, names)
    parts.add_row("nats", endpoints.nats_url, _state(is_well=streams is not None))
    console.print(parts)
    if streams is not None:
        console.print(streams)
        await _show_services(endpoints.nats_url, names, console)
    return serve and bool(models) and streams is not None


def _state(*, is_well: bool) -> str:
    return "[green]ready[/]" if is_well else "[red]does not answer[/]"


async def _models(address: str) -> list[str]:
    async with TritonModel(address) as triton:
        try:
            return await triton.model_names()
        except IceStreamError:
            return []


async def _streams(url: str, names: Names) -> Table | None:
    try:
        async with _nats(url) as connection:
            return await _stream_table(connection, names)
    except IceStreamError:
        return None


def _nats(url: str) -> AbstractAsyncContextManager[Connection]:
    return access().nats(url, name="icestream-status", timeout_s=2.0)


async def _show_services(url: str, names: Names, console: Console) -> None:
    Console(stderr=True).print(f"listening for heartbeats of services for {LISTEN_S:.0f} s ...")
    async with _nats(url) as connection:
        heard = await services_heard(connection, names)
    if heard:
        console.print(services_table(heard))
    else:
        console.print(f"no service was heard within {LISTEN_S:.0f} s")


async def _stream_table(connection: Connection, names: Names) -> Table:
    scans = ScanNames(names)
    consumers = {
        names.events_stream: [ROUTER_CONSUMER],
        names.reconstructions_stream: [RECORDER_CONSUMER],
        scans.work_stream: [consumer_name(lane) for lane in Lane],
        scans.log_stream: [],
        names.dead_letter_stream: [RECORDER_CONSUMER],
    }
    js = connection.client.jetstream()
    table = Table("stream", "messages", "MB", "of MB", "waiting", "in work")
    for stream, consumers_of_stream in consumers.items():
        try:
            info = await js.stream_info(stream)
        except NotFoundError:
            table.add_row(stream, "not made yet")
            continue
        table.add_row(
            stream,
            str(info.state.messages),
            f"{info.state.bytes / 1e6:.1f}",
            f"{(info.config.max_bytes or 0) / 1e6:.0f}",
            *await _consumer_counts(connection, stream, consumers_of_stream),
        )
    return table


async def _consumer_counts(connection: Connection, stream: str, consumers: list[str]) -> tuple[str, str]:
    """What waits for a router, a recorder or a scan worker, and what is at one."""
    if not consumers:
        return "", ""
    js = connection.client.jetstream()
    try:
        found = [await js.consumer_info(stream, consumer) for consumer in consumers]
    except APIError:
        return "nobody came for it yet", ""
    return (
        str(sum(info.num_pending or 0 for info in found)),
        str(sum(info.num_ack_pending or 0 for info in found)),
    )
